"""What a completion thinks, and what it says: models that reason write `<think> ... </think>` before their answer."""


def after_thinking(completion: str) -> str | None:
    """What follows the last `</think>`; None where a `<think>` is still open, all of it where there is neither."""
    before, closed, said = completion.rpartition("</think>")
    if "<think>" in said:
        return None
    return said if closed or not before else completion
