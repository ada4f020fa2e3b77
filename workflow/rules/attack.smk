rule attack_split:
    """Divide the rows to forget between an attacker and what he wants; overlaps are named."""
    input:
        data=data_for("attack_split"),
    output:
        split=ensure("results/{model}/attacks/split.json", non_empty=True),
    log:
        log_of("attack_split"),
    benchmark:
        cost_of("attack_split")
    localrule: True
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
        mem_mb=2000,
        runtime=10,
    params:
        config=config_of("attack_split"),
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" attack_split \
            --config {params.config:q} \
            --datasets resources/datasets \
            --out {output.split:q} \
            2>&1 | tee -i {log:q}
        """


rule attack:
    """One attack on one model: the value of each row under it, and what the attack cost."""
    input:
        base=base_manifest,
        model="results/{model}/{run}/model/model.json",
        original=original_of_attack,
        split="results/{model}/attacks/split.json",
        data=data_for("attack"),
        answers=answers_before,
    output:
        table=ensure("results/{model}/{run}/attacks/{attack}.parquet", non_empty=True),
        facts=ensure("results/{model}/{run}/attacks/{attack}.json", non_empty=True),
    log:
        log_of("attack"),
    benchmark:
        cost_of("attack")
    conda:
        "../../envs/palimpsest.yaml"
    threads: threads_of
    resources:
        gpu=gpus(1),
        mem_mb=memory_of_attack,
        runtime=runtime_of,
    params:
        config=config_of("attack"),
        untracked=untracked("attack"),
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" attack \
            --config {params.config:q} \
            --base {input.base:q} \
            --model {input.model:q} \
            --original "{input.original}" \
            --split {input.split:q} \
            --datasets resources/datasets \
            --answers "{input.answers}" \
            --out {output.facts:q} \
            --label "attack {wildcards.attack} on {wildcards.model}/{wildcards.run}" \
            --untracked {params.untracked:q} \
            --threads {threads} \
            --gpus {resources.gpu} \
            2>&1 | tee -i {log:q}
        """


rule robust:
    """Whether it comes back: the worst attack on a method, above its control."""
    input:
        models=seed_files("model/model.json"),
        original="results/{model}/original/seed-0/model/model.json",
        control=control_of,
        split="results/{model}/attacks/split.json",
        tables=method_tables,
        original_tables=attack_tables("original/seed-0"),
        control_tables=control_tables,
        tuning=reported_of,
    output:
        robust=ensure("results/{model}/{method}/robust.json", non_empty=True),
    log:
        log_of("robust"),
    benchmark:
        cost_of("robust")
    localrule: True
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
        mem_mb=2000,
        runtime=10,
    params:
        config=config_of("robust"),
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" robust \
            --config {params.config:q} \
            --models {input.models:q} \
            --original {input.original:q} \
            --control "{input.control}" \
            --split {input.split:q} \
            --out {output.robust:q} \
            2>&1 | tee -i {log:q}
        """
