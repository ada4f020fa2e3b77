rule report:
    """One offline page: methods side by side, answers before and after, trade-off, curves, costs."""
    input:
        evals=per_method("eval.json"),
        rows=per_method("rows.parquet"),
        comparisons=comparisons,
        sweeps=sweeps,
        attacks=attacks_of_page,
        regions=regions,
        searches=searches,
    output:
        html=report(
            "results/{page}.html",
            caption="../report/report.rst",
            category="Report",
        ),
    log:
        log_of("report"),
    benchmark:
        cost_of("report")
    wildcard_constraints:
        page="report|all_methods",
    localrule: True
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
        mem_mb=2000,
        runtime=10,
    params:
        config=config_of("report"),
        tables=lambda wildcards: {"report": "results/tables"}.get(
            wildcards.page, f"results/{wildcards.page}"
        ),
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" report \
            --config {params.config:q} \
            --results results \
            --out {output.html:q} \
            --tables {params.tables:q} \
            2>&1 | tee -i {log:q}
        """
