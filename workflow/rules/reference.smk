rule reference:
    """What the subject computes on a part's rows: final hidden states, or costs of tokens."""
    input:
        base=base_manifest,
        subject="results/{model}/subject/manifest.json",
        tokens=tokens_of_part,
        wanted=wanted_in_part,
    output:
        manifest=ensure(
            "results/{model}/reference/{dataset}/{part}.{kind}/manifest.json", non_empty=True
        ),
    log:
        log_of("reference"),
    benchmark:
        cost_of("reference")
    conda:
        "../../envs/palimpsest.yaml"
    threads: threads_of
    resources:
        gpu=gpus(1),
        mem_mb=memory_of,
        runtime=runtime_of,
    params:
        config=config_of("reference"),
        tokens=tokens_folder,
        wanted=wanted_folder,
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" reference \
            --config {params.config:q} \
            --base {input.base:q} \
            --subject {input.subject:q} \
            --tokens {params.tokens:q} \
            --wanted "{params.wanted}" \
            --out {output.manifest:q} \
            --label "reference {wildcards.model} {wildcards.dataset}/{wildcards.part} {wildcards.kind}" \
            --threads {threads} \
            --gpus {resources.gpu} \
            2>&1 | tee -i {log:q}
        """
