rule judge:
    """What a classifier or a chat model says about the answers to what is forbidden."""
    input:
        generations="results/{model}/{subject_or_method}/seed-{seed}/generations.parquet",
        data=data_for("judge"),
    output:
        judged=ensure(
            "results/{model}/{subject_or_method}/seed-{seed}/judged.parquet", non_empty=True
        ),
    log:
        "logs/judge/{model}.{subject_or_method}.seed-{seed}.log",
    benchmark:
        "benchmarks/judge/{model}.{subject_or_method}.seed-{seed}.jsonl"
    wildcard_constraints:
        subject_or_method=one_of(CFG.method_names() if JUDGED_APART else []),
    # A service is asked from the machine that started the run: nodes of a cluster may not reach it.
    localrule: JUDGE.runs == "service"
    conda:
        "../../envs/palimpsest.yaml"
    threads: 8 if JUDGE.runs == "model" else 1
    resources:
        gpu=int(JUDGE.runs == "model"),
        mem_mb=8000,
        runtime=60,
    params:
        config=stage("judge"),
        free=free("judge"),
    shell:
        """
        python workflow/scripts/judge.py \
            --config {params.config:q} \
            --free {params.free:q} \
            --generations {input.generations:q} \
            --datasets resources/datasets \
            --out {output.judged:q} \
            --label "judge {wildcards.model}/{wildcards.subject_or_method} seed {wildcards.seed}" \
            --threads {threads} \
            --gpus {resources.gpu} \
            2>&1 | tee -i {log:q}
        """
