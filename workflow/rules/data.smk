# From source files to checked images and labels. All of it has priority: what is wrong with any sample is best known
# before the hours of a training.

if CONFIG.simulated:

    rule simulate:
        output:
            image=f"{CONFIG.simulated}/images/{{sample}}.tif",
            annotation=f"{CONFIG.simulated}/labels/{{sample}}.tif",
        log:
            "results/logs/simulate/{sample}.log",
        benchmark:
            "results/benchmarks/simulate/{sample}.tsv"
        priority: 1
        conda:
            "../../environment.yml"
        resources:
            **REQUESTS("simulate"),
        params:
            spec=lambda wildcards: CONFIG.spec("simulate", wildcards.sample),
            code=fingerprint("unetpipe.steps.simulate"),
        shell:
            "exec python -m unetpipe simulate {output.image:q} --annotation {output.annotation:q}"
            " --spec {params.spec:q} --code {params.code:q} --log {log:q}"


rule ingest:
    input:
        lambda wildcards: CONFIG.samples[wildcards.sample].image,
    output:
        "results/images/{sample}.json",
    log:
        "results/logs/ingest/{sample}.log",
    benchmark:
        "results/benchmarks/ingest/{sample}.tsv"
    priority: 1
    conda:
        "../../environment.yml"
    resources:
        **REQUESTS("ingest"),
        tmpdir=TMPDIR,
    params:
        spec=lambda wildcards: CONFIG.spec("ingest", wildcards.sample),
        code=fingerprint("unetpipe.steps.ingest"),
    shell:
        "exec python -m unetpipe ingest {input:q} --output {output:q}"
        " --spec {params.spec:q} --code {params.code:q} --log {log:q}"


rule annotate:
    input:
        annotation=lambda wildcards: CONFIG.samples[wildcards.sample].annotation,
        image="results/images/{sample}.json",
    output:
        "results/labels/{sample}.json",
    log:
        "results/logs/annotate/{sample}.log",
    benchmark:
        "results/benchmarks/annotate/{sample}.tsv"
    priority: 1
    conda:
        "../../environment.yml"
    resources:
        **REQUESTS("annotate"),
        tmpdir=TMPDIR,
    params:
        spec=lambda wildcards: CONFIG.spec("annotate", wildcards.sample),
        code=fingerprint("unetpipe.steps.annotate"),
    shell:
        "exec python -m unetpipe annotate {input.annotation:q} {input.image:q} --output {output:q}"
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
