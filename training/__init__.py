"""The training worker: takes fine-tuning jobs from the store, trains with TRL and PEFT, publishes what came out.

    worker.py         the loop: one job under a lease, done by a child process
    child.py          the child: one job from its files to its checkpoint
    recipe.py         every number that a job leaves to us, in one place
    conversations.py  messages to token ids, and the tokens that the loss is on
    model.py          base weights, adapters, and what all trainers are told
    sft.py  dpo.py  grpo.py  verifier.py    one method a file; step_labels.py: what a verifier is trained on
    run.py            what the methods share: from the rows of a file to a checkpoint
    progress.py       what a trainer reports, when it saves, how it stops; metrics.py: what it measured
    publish.py        what weights must be like to be published
    engine.py         the serving vLLM, for rollouts and for new adapters
    grading.py        graders, for rewards and for step labels
    tools.py          tool calls in what was sampled
    task.py           what passes between the worker and the child

Importing this package, its worker or its command imports no torch: that is for the child.
"""
