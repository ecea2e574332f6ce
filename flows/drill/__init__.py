"""The drill: each way in which a model dies, injected on real data, watched until all is well again.

Where do I go to ...?

    one failure mode      silent.py, skew.py, feedback.py, release.py, drift.py: `inject(stage)` each
    what is switched on   defences.py
    the stack beneath     stage.py
    the record of one     incident.py; its table.py and report.py
    all of them in turn   run.py
"""
