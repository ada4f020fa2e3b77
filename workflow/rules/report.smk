def reported(pattern, skip=()):
    """A file of every subject and method in the report."""
    return [
        pattern.format(model=model, method=method, seed=seed)
        for model, methods in CFG.report.models.items()
        for method in methods
        if method not in skip
        for seed in CFG.seeds(method, model)[:1]
    ]


rule report:
    """One offline page: methods side by side, answers before and after, trade-off, curves, costs."""
    input:
        evals=reported("results/{model}/{method}/eval.json"),
        rows=reported("results/{model}/{method}/rows.parquet"),
        sweeps=reported("results/{model}/{method}/seed-{seed}/sweep.parquet", skip=["original"]),
    output:
        html=report(
            "results/report.html",
            caption="../report/report.rst",
            category="Report",
        ),
    log:
        "logs/report.log",
    benchmark:
        "benchmarks/report.jsonl"
    localrule: True
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
        mem_mb=2000,
        runtime=10,
    params:
        config=stage("report"),
    shell:
        """
        python workflow/scripts/report.py \
            --config {params.config:q} \
            --results results \
            --out {output.html:q} \
            --tables results/tables \
            2>&1 | tee -i {log:q}
        """
