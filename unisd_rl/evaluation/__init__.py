"""One model on held-out problems: answers, grades, intervals, retention."""
