"""The training worker: takes fine-tuning jobs from the store, trains with TRL and PEFT, publishes what came out.

    worker.py         the loop: one job under a lease, done by a child process
    child.py          the child: one job from its files to its checkpoint
    recipe.py         every number that a job leaves to us, in one place
    conversations.py  messages to token ids and the tokens that the loss is on
    model.py          base weights, adapters, and what all trainers are told
    sft.py  dpo.py  grpo.py  verifier.py    one method a file
    progress.py       what a trainer reports, and how it stops
    publish.py        checking, checksums, the rename
    engine.py         the serving vLLM, for rollouts and for new adapters

Importing this package, its worker or its command imports no torch: that is for the child.
"""
