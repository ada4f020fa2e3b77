rule tune_split:
    """Name the rows that choose settings; what is reported does not count, so trials stay."""
    input:
        data=data_for("tune_split"),
    output:
        split=ensure("results/{model}/tune/{plan}/split.json", non_empty=True),
    log:
        log_of("tune_split"),
    benchmark:
        cost_of("tune_split")
    # What it refuses is to be seen before anything is trained.
    priority: 10
    localrule: True
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
        mem_mb=2000,
        runtime=10,
    params:
        config=config_of("tune_split"),
        untracked=untracked("tune_split"),
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" tune_split \
            --config {params.config:q} \
            --untracked {params.untracked:q} \
            --datasets resources/datasets \
            --out {output.split:q} \
            2>&1 | tee -i {log:q}
        """


rule tune_report:
    """Name the rows that report a tuned method: those about no fact that chose."""
    input:
        split="results/{model}/tune/{plan}/split.json",
        data=data_for("tune_report"),
    output:
        report=ensure("results/{model}/tune/{plan}/report.json", non_empty=True),
    log:
        log_of("tune_report"),
    benchmark:
        cost_of("tune_report")
    # What it refuses is to be seen before trials run.
    priority: 10
    localrule: True
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
        mem_mb=2000,
        runtime=10,
    params:
        config=config_of("tune_report"),
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" tune_report \
            --config {params.config:q} \
            --split {input.split:q} \
            --datasets resources/datasets \
            --out {output.report:q} \
            2>&1 | tee -i {log:q}
        """


rule tune_reference:
    """The rows that choose settings, measured with original or retrained: limit and floor."""
    input:
        base=base_manifest,
        model="results/{model}/{method}/seed-0/model/model.json",
        split="results/{model}/tune/{plan}/split.json",
        tokens=tokens_for("tune_reference"),
        data=data_for("tune_reference"),
    output:
        table=ensure("results/{model}/tune/{plan}/{method}.parquet", non_empty=True),
    log:
        log_of("tune_reference"),
    benchmark:
        cost_of("tune_reference")
    wildcard_constraints:
        method="original|retrained",
    conda:
        "../../envs/palimpsest.yaml"
    threads: threads_of
    resources:
        gpu=1,
        mem_mb=memory_of,
        runtime=runtime_of,
    params:
        config=config_of("tune_reference"),
        tokens=tokens_folder,
        untracked=untracked("tune_reference"),
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" tune_reference \
            --config {params.config:q} \
            --base {input.base:q} \
            --model {input.model:q} \
            --split {input.split:q} \
            --tokens {params.tokens:q} \
            --datasets resources/datasets \
            --out {output.table:q} \
            --label "choosing rows of {wildcards.model}/{wildcards.method}" \
            --untracked {params.untracked:q} \
            --threads {threads} \
            --gpus {resources.gpu} \
            2>&1 | tee -i {log:q}
        """


rule point:
    """Settings of one trial; they depend on the space and on the trial's number alone."""
    output:
        point=ensure("results/{model}/{method}/tune/{trial}/point.json", non_empty=True),
    log:
        log_of("point"),
    benchmark:
        cost_of("point")
    wildcard_constraints:
        method=one_of(results.tuned(CFG)),
        trial=points.FIRST,
    localrule: True
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
        mem_mb=1000,
        runtime=10,
    params:
        config=config_of("point"),
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" point \
            --config {params.config:q} \
            --out {output.point:q} \
            2>&1 | tee -i {log:q}
        """


rule propose:
    """Settings of one trial of the second round, which the first one suggests (extra: tpe)."""
    input:
        trials=first_round("trial.json"),
        rows=first_round("rows.parquet"),
        original=choosing_rows_of("original"),
        retrained=choosing_rows_of("retrained"),
        split=split_of,
    output:
        point=ensure("results/{model}/{method}/tune/{trial}/point.json", non_empty=True),
    log:
        log_of("propose"),
    benchmark:
        cost_of("propose")
    wildcard_constraints:
        method=one_of(results.tuned(CFG)),
        trial=points.SECOND,
    localrule: True
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
        mem_mb=2000,
        runtime=10,
    params:
        config=config_of("propose"),
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" propose \
            --config {params.config:q} \
            --trials {input.trials:q} \
            --original {input.original:q} \
            --retrained "{input.retrained}" \
            --split {input.split:q} \
            --out {output.point:q} \
            2>&1 | tee -i {log:q}
        """


rule trial:
    """Train with the settings of one point; measure the rows that choose, at every scale."""
    input:
        base=base_manifest,
        subject="results/{model}/subject/manifest.json",
        tokens=tokens_for("trial"),
        wanted=wanted_of,
        reference=reference_of,
        examples=of_trials(examples_of),
        region=of_trials(region_of),
        others=of_trials(vectors_merged),
        point="results/{model}/{method}/tune/{trial}/point.json",
        split=split_of,
        data=data_for("trial"),
    output:
        facts=ensure("results/{model}/{method}/tune/{trial}/trial.json", non_empty=True),
        rows=ensure("results/{model}/{method}/tune/{trial}/rows.parquet", non_empty=True),
    log:
        log_of("trial"),
    benchmark:
        cost_of("trial")
    wildcard_constraints:
        method=one_of(results.tuned(CFG)),
    priority: -10
    conda:
        "../../envs/palimpsest.yaml"
    threads: threads_of
    resources:
        gpu=devices(pretrains=False),
        mem_mb=memory_on_devices(pretrains=False),
        runtime=runtime_of,
    params:
        config=config_of("trial"),
        untracked=untracked("trial"),
        tokens=tokens_folder,
        wanted=wanted_folder,
        reference=reference_folder,
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" trial \
            --config {params.config:q} \
            --untracked {params.untracked:q} \
            --base {input.base:q} \
            --subject {input.subject:q} \
            --tokens {params.tokens:q} \
            --wanted "{params.wanted}" \
            --reference "{params.reference}" \
            --examples "{input.examples}" \
            --region "{input.region}" \
            --others {input.others:q} \
            --point {input.point:q} \
            --split {input.split:q} \
            --datasets resources/datasets \
            --out {output.facts:q} \
            --label "{wildcards.trial} of {wildcards.model}/{wildcards.method}" \
            --threads {threads} \
            --gpus {resources.gpu} \
            2>&1 | tee -i {log:q}
        """


rule choose:
    """Choose a method's settings among all trials of its plan; needs no model."""
    input:
        trials=trials_of("trial.json"),
        rows=trials_of("rows.parquet"),
        original=choosing_rows_of("original"),
        retrained=choosing_rows_of("retrained"),
        split=split_of,
    output:
        chosen=ensure("results/{model}/{method}/tune/chosen.json", non_empty=True),
        trials=ensure("results/{model}/{method}/tune/trials.parquet", non_empty=True),
    log:
        log_of("choose"),
    benchmark:
        cost_of("choose")
    wildcard_constraints:
        method=one_of(results.tuned(CFG)),
    localrule: True
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
        mem_mb=2000,
        runtime=10,
    params:
        config=config_of("choose"),
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" choose \
            --config {params.config:q} \
            --trials {input.trials:q} \
            --original {input.original:q} \
            --retrained "{input.retrained}" \
            --split {input.split:q} \
            --out {output.chosen:q} \
            2>&1 | tee -i {log:q}
        """
