# From segmentations to scores and one page.


for batch in BATCHES:

    rule:
        name:
            batch.rule("evaluate")
        input:
            segmentation=batch.files("results/segmentations/{model}/{sample}.json"),
            probabilities=batch.files("results/probabilities/{model}/{sample}.json"),
            labels=batch.files("results/labels/{sample}.json"),
        output:
            batch.files("results/metrics/{model}/{sample}.json"),
        log:
            batch.files("results/logs/evaluate/{model}/{sample}.log"),
        benchmark:
            batch.file("results/benchmarks/evaluate/{model}/{sample}.tsv")
        conda:
            "../../environment.yml"
        resources:
            **REQUESTS("evaluate", batch),
            tmpdir=TMPDIR,
        params:
            unetpipe=UNETPIPE,
            spec=CONFIG.spec("evaluate"),
            code=fingerprint("unetpipe.steps.evaluate"),
        shell:
            "exec {params.unetpipe} evaluate {input.segmentation:q} {input.probabilities:q} {input.labels:q}"
            " --output {output:q} --spec {params.spec:q} --code {params.code:q} --log {log:q}"


rule report:
    input:
        [f"results/metrics/{model}/{sample}.json" for model in CONFIG.applied for sample in CONFIG.scored(model)],
        expand("results/models/{model}.json", model=CONFIG.models),
        [f"results/segmentations/{model}/{sample}.json" for model in CONFIG.applied for sample in CONFIG.shown(model)],
        expand("results/images/{sample}.json", sample=sorted({s for m in CONFIG.applied for s in CONFIG.shown(m)})),
        expand("results/labels/{sample}.json", sample=sorted({s for m in CONFIG.applied for s in CONFIG.scored(m)})),
        expand("results/images/{sample}.json", sample=CONFIG.by_split["train"][0]),
        expand("results/weights/{sample}.json", sample=CONFIG.by_split["train"][0]),
        "results/doctor/all.json",
    output:
        "results/report.json",
    log:
        "results/logs/report.log",
    benchmark:
        "results/benchmarks/report.tsv"
    conda:
        "../../environment.yml"
    resources:
        **REQUESTS("report"),
    params:
        spec=CONFIG.spec("report"),
        code=fingerprint("unetpipe.steps.report"),
        manifests=lambda wildcards, input: kept_text(input),
    shell:
        "exec python -m unetpipe report @{params.manifests:q} --output {output:q}"
        " --spec {params.spec:q} --code {params.code:q} --log {log:q}"
