"""What is made before a run: the contexts of every problem, verified, measured, and kept for the next run.

```
task, configuration, seed, model --fingerprints.py--> key
    key --segments.py--> finished: read       unfinished: what is missing is made, 256 problems at a time
                                              contexts (made.py) --> lengths --> one segment, for ever
    rows --selection.py--> those that fit, in order, and a report --> unisd_rl/prompts.py
```
"""
