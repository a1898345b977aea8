"""/v1/sessions: log in, refresh, log out."""

from tests.http.surface import Surface


async def test_log_in_answers_with_the_tokens_of_a_new_session(node: Surface):
    """A log-in is 201 with all six members, and its access token says the same as its answer."""
    tokens = await node.log_in()
    assert set(tokens) == {"access_token", "token_type", "expires_in", "refresh_token", "scope", "rid"}
