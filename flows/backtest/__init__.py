"""Policy backtest: a past period replayed under several retrain policies, with the code that runs nightly.

Where do I go to ...?
  read the past          record.py: every labelled row, joined point in time as for training
  fit a model            models.py: the model of an instant, fitted once for all policies and kept by content
  replay a policy        replay.py: weeks, monitor, retrain, gate, one after the other
  measure                measures.py: quality by week and month, regret, differences with an interval
  show                   report.py, picture.py: table, JSON, picture
  put it together        run.py
The policies themselves are in flows/policy/retraining.py.
"""
