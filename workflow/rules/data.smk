# From source files to checked images and labels. All of it has priority: what is wrong with any sample is best known
# before the hours of a training.

if CONFIG.simulated:

    for batch in BATCHES:

        rule:
            name:
                batch.rule("simulate")
            output:
                image=batch.files(f"{CONFIG.simulated}/images/{{sample}}.tif"),
                annotation=batch.files(f"{CONFIG.simulated}/labels/{{sample}}.tif"),
            log:
                batch.files("results/logs/simulate/{sample}.log"),
            benchmark:
                batch.file("results/benchmarks/simulate/{sample}.tsv")
            priority: 1
            conda:
                "../../environment.yml"
            resources:
                **REQUESTS("simulate", batch),
            params:
                unetpipe=UNETPIPE,
                spec=batch.each(lambda sample: CONFIG.spec("simulate", sample)),
                code=fingerprint("unetpipe.steps.simulate"),
            shell:
                "exec {params.unetpipe} simulate {output.image:q} --annotation {output.annotation:q}"
                " --spec {params.spec:q} --code {params.code:q} --log {log:q}"


for batch in BATCHES:

    rule:
        name:
            batch.rule("ingest")
        input:
            batch.each(lambda sample: CONFIG.samples[sample].image),
        output:
            batch.files("results/images/{sample}.json"),
        log:
            batch.files("results/logs/ingest/{sample}.log"),
        benchmark:
            batch.file("results/benchmarks/ingest/{sample}.tsv")
        priority: 1
        conda:
            "../../environment.yml"
        resources:
            **REQUESTS("ingest", batch),
            tmpdir=TMPDIR,
        params:
            unetpipe=UNETPIPE,
            spec=batch.each(lambda sample: CONFIG.spec("ingest", sample)),
            code=fingerprint("unetpipe.steps.ingest"),
        shell:
            "exec {params.unetpipe} ingest {input:q} --output {output:q}"
            " --spec {params.spec:q} --code {params.code:q} --log {log:q}"


for batch in BATCHES:

    rule:
        name:
            batch.rule("annotate")
        input:
            annotation=batch.each(lambda sample: CONFIG.samples[sample].annotation),
            image=batch.files("results/images/{sample}.json"),
        output:
            batch.files("results/labels/{sample}.json"),
        log:
            batch.files("results/logs/annotate/{sample}.log"),
        benchmark:
            batch.file("results/benchmarks/annotate/{sample}.tsv")
        priority: 1
        conda:
            "../../environment.yml"
        resources:
            **REQUESTS("annotate", batch),
            tmpdir=TMPDIR,
        params:
            unetpipe=UNETPIPE,
            spec=batch.each(lambda sample: CONFIG.spec("annotate", sample)),
            code=fingerprint("unetpipe.steps.annotate"),
            # Compared with those of the last run, for of a folder Snakemake looks at its time only.
            masks=batch.each(lambda sample: digest_of_files(CONFIG.samples[sample].annotation)),
        shell:
            "exec {params.unetpipe} annotate {input.annotation:q} {input.image:q} --output {output:q}"
            " --spec {params.spec:q} --code {params.code:q} --log {log:q}"


rule doctor:
    input:
        images=lambda wildcards: expand("results/images/{sample}.json", sample=CONFIG.examined(wildcards.group)),
        labels=lambda wildcards: expand("results/labels/{sample}.json", sample=CONFIG.annotated(wildcards.group)),
        # Only so that nothing is looked at twice: what another group's doctor has seen is taken over.
        before=lambda wildcards: {"training": [], "all": ["results/doctor/training.json"]}[wildcards.group],
    output:
        "results/doctor/{group}.json",
    log:
        "results/logs/doctor/{group}.log",
    benchmark:
        "results/benchmarks/doctor/{group}.tsv"
    wildcard_constraints:
        group="training|all",
    priority: 1
    conda:
        "../../environment.yml"
    resources:
        **REQUESTS("doctor"),
    params:
        spec=lambda wildcards: CONFIG.spec("doctor", wildcards.group),
        code=fingerprint("unetpipe.steps.doctor"),
        # Functions of the input are not compared with those of the last run.
        manifests=lambda wildcards, input: kept_text([*input.images, *input.labels]),
        spec_file=lambda wildcards, input: kept_text(CONFIG.spec("doctor", wildcards.group)),
    shell:
        "exec python -m unetpipe doctor @{params.manifests:q} --output {output:q}"
        " --spec @{params.spec_file:q} --code {params.code:q} --log {log:q}"
