import pytest

pytest.register_assert_rewrite("runner_contract")
