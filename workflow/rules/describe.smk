rule describe:
    """A model that nothing was unlearned from, described like every other one."""
    input:
        base=base_manifest,
        adapter=adapter_of,
    output:
        model=ensure("results/{model}/{method}/seed-0/model/model.json", non_empty=True),
    log:
        log_of("describe"),
    benchmark:
        cost_of("describe")
    wildcard_constraints:
        method=one_of(ADAPTERS),
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
        mem_mb=memory_of,
        runtime=runtime_of,
    params:
        config=config_of("describe"),
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" describe \
            --config {params.config:q} \
            --base {input.base:q} \
            --adapter "{input.adapter}" \
            --out {output.model:q} \
            2>&1 | tee -i {log:q}
        """
