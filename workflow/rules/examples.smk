rule examples:
    """Rows with other labels, or a mixture of two sets; the subject may make the labels."""
    input:
        base=base_manifest,
        subject=subject_that_guesses,
        acquired=vectors_of,
        tokens=tokens_for("examples"),
    output:
        manifest=ensure(
            "results/{model}/{method}/seed-{seed}/examples/manifest.json", non_empty=True
        ),
    log:
        log_of("examples"),
    benchmark:
        cost_of("examples")
    conda:
        "../../envs/palimpsest.yaml"
    threads: threads_to_guess
    resources:
        gpu=gpus(asks_subject),
        mem_mb=memory_of,
        runtime=runtime_of,
    params:
        config=config_of("examples"),
        tokens=tokens_folder,
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" examples \
            --config {params.config:q} \
            --base {input.base:q} \
            --subject "{input.subject}" \
            --acquired "{input.acquired}" \
            --tokens {params.tokens:q} \
            --out {output.manifest:q} \
            --label "examples {wildcards.model}/{wildcards.method}" \
            --threads {threads} \
            --gpus {resources.gpu} \
            2>&1 | tee -i {log:q}
        """
