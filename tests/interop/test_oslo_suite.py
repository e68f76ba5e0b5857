"""oslo.messaging's own functional tests, one test here for each of them (`harness/oslo_suite.py`)."""

import shutil

import pytest
from harness.oslo_suite import EXPECTED, SECOND_DEADLINE_S, SUITE_DEADLINE_S, run_suite, unpack


@pytest.fixture(scope="session")
def outcomes(shared, tmp_path_factory):
    source = unpack(tmp_path_factory.mktemp("oslo"))
    yield run_suite(shared.url(scheme="rabbit").replace("%2F", ""), source)
    shutil.rmtree(source, ignore_errors=True)


@pytest.mark.timeout(SUITE_DEADLINE_S + SECOND_DEADLINE_S + 60)
@pytest.mark.parametrize("test", EXPECTED)
def test_functional(outcomes, test):
    status, details = outcomes.get(test, ("missing", ""))
    assert status == "success", details[-8000:]


def test_list_of_functional_tests_is_whole(outcomes):
    assert sorted(outcomes) == EXPECTED
