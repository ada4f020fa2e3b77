rule report:
    """One offline page: methods side by side, answers before and after, trade-off, curves, costs."""
    input:
        evals=per_method("eval.json"),
        rows=per_method("rows.parquet"),
        sweeps=per_seed("sweep.parquet"),
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
