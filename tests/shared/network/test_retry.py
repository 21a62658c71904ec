from kfp_osft.shared.network.retry import Backoff


def test_pauses_double_until_the_tries_are_used_up():
    backoff = Backoff(tries=5, first_pause=2.0, longest_pause=10.0)

    assert [backoff.pause() for _ in range(5)] == [2.0, 4.0, 8.0, 10.0, None]


def test_the_count_starts_again_when_a_try_got_further():
    backoff = Backoff(tries=3, first_pause=1.0)

    assert [backoff.pause(further) for further in (False, False, True, False, False)] == [1.0, 2.0, 1.0, 2.0, None]


def test_a_pause_that_the_server_asks_for_is_granted_up_to_the_longest():
    backoff = Backoff(tries=5, first_pause=1.0, longest_pause=30.0)

    assert [backoff.pause(wanted=wanted) for wanted in (5.0, 1.0, 3600.0)] == [5.0, 2.0, 30.0]
