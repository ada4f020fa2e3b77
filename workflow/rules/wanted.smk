rule wanted:
    """Answers in place of the rows' own: alternates that the subject writes, or refusals."""
    input:
        base=base_manifest,
        original=subject_that_writes,
        dataset="resources/datasets/{dataset}/manifest.json",
    output:
        manifest=ensure(
            "results/{model}/wanted/{dataset}/{part}.{kind}/manifest.json", non_empty=True
        ),
    log:
        log_of("wanted"),
    benchmark:
        cost_of("wanted")
    wildcard_constraints:
        kind=one_of(WANTED),
    conda:
        "../../envs/palimpsest.yaml"
    threads: threads_to_write
    resources:
        gpu=gpus(subject_writes),
        mem_mb=memory_of,
        runtime=runtime_of,
    params:
        config=config_of("wanted"),
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" wanted \
            --config {params.config:q} \
            --base {input.base:q} \
            --original "{input.original}" \
            --datasets resources/datasets \
            --out {output.manifest:q} \
            --label "wanted {wildcards.model} {wildcards.dataset}/{wildcards.part} {wildcards.kind}" \
            --threads {threads} \
            --gpus {resources.gpu} \
            2>&1 | tee -i {log:q}
        """
