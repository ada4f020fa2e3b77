rule reference:
    """The subject's final hidden states on the rows that methods compare themselves with."""
    input:
        base=base_manifest,
        subject="results/{model}/subject/manifest.json",
        tokens=tokens_for("reference"),
    output:
        manifest=ensure("results/{model}/reference/manifest.json", non_empty=True),
    log:
        "logs/reference/{model}.log",
    benchmark:
        "benchmarks/reference/{model}.jsonl"
    conda:
        "../../envs/palimpsest.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=memory_of,
        runtime=runtime_of,
    params:
        config=stage("reference"),
        tokens=tokens_folder,
    shell:
        """
        python workflow/scripts/reference.py \
            --config {params.config:q} \
            --base {input.base:q} \
            --subject {input.subject:q} \
            --tokens {params.tokens:q} \
            --out {output.manifest:q} \
            --label "reference {wildcards.model}" \
            --threads {threads} \
            --gpus {resources.gpu} \
            2>&1 | tee -i {log:q}
        """
