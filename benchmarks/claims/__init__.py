"""`make claims`: what is claimed of inference-time compute and of training, measured by the product itself.

The measurements are further stages of the lab (`benchmarks/lab`), in its folder, so that what the lab has done is not
done again. `stages.py` says which stages a claim needs and how its own are asked for, `scale.py` how much of
everything. `small.py` makes a model of a third of the size, `flops.py` counts, `curves.py` computes, `results.py` reads
the samples, and `page.py` and `pictures.py` write docs/claims.md.
"""
