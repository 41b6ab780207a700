"""From pictures to results: the stateful ``Inspector`` and its parts."""
