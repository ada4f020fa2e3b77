rule train_judge:
    """The judge `trained`: a classifier of answers, from a part with labels."""
    input:
        data=labels_of,
    output:
        manifest=ensure("resources/judges/{dataset}/{part}/manifest.json", non_empty=True),
    log:
        log_of("train_judge"),
    benchmark:
        cost_of("train_judge")
    wildcard_constraints:
        part=one_of([split_ref(CFG.judges.trained.train)[1]] if CFG.judges.trained else []),
        dataset=one_of([dataset_of(CFG.judges.trained.train)] if CFG.judges.trained else []),
    conda:
        "../../envs/palimpsest.yaml"
    threads: 2
    resources:
        gpu=0,
        mem_mb=4000,
        runtime=30,
    params:
        config=config_of("train_judge"),
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" train_judge \
            --config {params.config:q} \
            --datasets resources/datasets \
            --out {output.manifest:q} \
            --threads {threads} \
            2>&1 | tee -i {log:q}
        """
