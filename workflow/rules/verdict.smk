rule verdict:
    """Whether a model meets the criteria; `original` and `retrained` are judged beside it."""
    input:
        results=results_of(""),
        original=results_of("original"),
        retrained=retrained_results,
    output:
        verdict=ensure("results/{model}/{method}/verdict.json", non_empty=True),
    log:
        log_of("verdict"),
    benchmark:
        cost_of("verdict")
    localrule: True
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
        mem_mb=2000,
        runtime=10,
    params:
        config=config_of("verdict"),
        retrained=lambda w, input: next(iter(input.retrained), ""),
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" verdict \
            --config {params.config:q} \
            --results {input.results[0]:q} \
            --original {input.original[0]:q} \
            --retrained "{params.retrained}" \
            --out {output.verdict:q} \
            2>&1 | tee -i {log:q}
        """


rule verdicts:
    """A line for each method of the report; with verdict.strict it fails unless all pass."""
    input:
        verdicts,
    log:
        "logs/verdicts.log",
    localrule: True
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
        mem_mb=500,
        runtime=5,
    params:
        strict="--strict" if CFG.verdict.strict else "",
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/verdicts.py" {params.strict} \
            --verdicts {input:q} \
            2>&1 | tee -i {log:q}
        """
