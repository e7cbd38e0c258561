"""`make lab`: post-training and search on generated arithmetic, told by the product itself through its API.

`stages.py` lists what is done, in its order: each stage is one job of the server, whose id is kept in `lab.json`, so
that a lab that was stopped goes on where it was (`jobs.py`). `policies.py` is what is compared on the SFT model,
`training.py` what is trained, `scale.py` how much of everything. `measured.py` reads the samples of all comparisons,
`gates.py` says what was to be reached, `page.py` writes docs/lab.md.
"""
