"""Values: store, models, networks, judge and images."""

from __future__ import annotations

from tests.charts.helm import environment
from tests.charts.pairs import (
    DIGEST,
    Pair,
    dig,
    env_everywhere,
    env_of_controller,
    env_of_workloads,
    image_of,
    image_of_controller,
    in_object,
    ref,
    same,
    volume_of_workloads,
)

CA_FILE = "/etc/tandem/ca/ca.crt"
STORE_AND_WORLD = [
    Pair(
        path="store.url",
        value="s3://other",
        look=env_of_controller("TANDEM_STORE"),
        unset="s3://bucket/prefix",
        set="s3://other",
    ),
    Pair(
        path="s3.endpoint",
        value="http://s3:9000",
        look=env_everywhere("AWS_ENDPOINT_URL_S3"),
        unset=None,
        set="http://s3:9000",
    ),
    Pair(path="s3.region", value="eu-1", look=env_everywhere("AWS_REGION"), unset=None, set="eu-1"),
    Pair(
        path="s3.addressingStyle",
        value="virtual",
        look=lambda release: (
            env_everywhere("AWS_CONFIG_FILE")(release),
            volume_of_workloads("aws")(release),
            dig(release.every("ConfigMap").get("tandem-aws"), "data", "config"),
        ),
        unset=(None, None, None),
        set=(
            "/etc/tandem/aws/config",
            {"at": "/etc/tandem/aws", "configMap": {"name": "tandem-aws"}},
            "[default]\ns3 =\n    addressing_style = virtual\n",
        ),
    ),
    Pair(
        path="s3.existingSecret",
        value="keys",
        look=env_everywhere("AWS_ACCESS_KEY_ID"),
        unset=None,
        set=ref("keys", "AWS_ACCESS_KEY_ID"),
    ),
    Pair(
        path="s3.accessKeyIdKey",
        value="id",
        given={"s3": {"existingSecret": "keys"}},
        look=env_everywhere("AWS_ACCESS_KEY_ID"),
        unset=ref("keys", "AWS_ACCESS_KEY_ID"),
        set=ref("keys", "id"),
    ),
    Pair(
        path="s3.secretAccessKeyKey",
        value="key",
        given={"s3": {"existingSecret": "keys"}},
        look=env_everywhere("AWS_SECRET_ACCESS_KEY"),
        unset=ref("keys", "AWS_SECRET_ACCESS_KEY"),
        set=ref("keys", "key"),
    ),
    Pair(path="hub.endpoint", value="https://hub", look=env_of_workloads("HF_ENDPOINT"), unset=None, set="https://hub"),
    Pair(path="hub.offline", value=True, look=env_of_workloads("HF_HUB_OFFLINE"), unset=None, set="1"),
    Pair(
        path="hub.token.existingSecret",
        value="hub",
        look=env_of_workloads("HF_TOKEN"),
        unset=None,
        set=ref("hub", "token"),
    ),
    Pair(
        path="hub.token.key",
        value="t",
        given={"hub": {"token": {"existingSecret": "hub"}}},
        look=env_of_workloads("HF_TOKEN"),
        unset=ref("hub", "token"),
        set=ref("hub", "t"),
    ),
    Pair(
        path="modelCache.existingClaim",
        value="models",
        look=lambda release: (
            volume_of_workloads("cache")(release),
            env_of_workloads("TANDEM_CACHE")(release),
            env_of_workloads("HF_HOME")(release),
        ),
        unset=(None, "/tmp/cache", "/tmp/cache/huggingface"),
        set=({"at": "/cache", "persistentVolumeClaim": {"claimName": "models"}}, "/cache", "/cache/huggingface"),
    ),
    Pair(
        path="modelCache.claim.create",
        value=True,
        look=lambda release: (
            volume_of_workloads("cache")(release),
            dig(release.every("PersistentVolumeClaim").get("tandem-models"), "metadata", "annotations"),
        ),
        unset=(None, None),
        set=(
            {"at": "/cache", "persistentVolumeClaim": {"claimName": "tandem-models"}},
            {"helm.sh/resource-policy": "keep"},
        ),
    ),
    *(
        Pair(
            path=f"modelCache.claim.{key}",
            value=value,
            given={"modelCache": {"claim": {"create": True}}},
            look=in_object("PersistentVolumeClaim", "tandem-models", "spec", *where),
            unset=unset,
            set=value,
        )
        for key, value, where, unset in (
            ("size", "1Gi", ("resources", "requests", "storage"), "200Gi"),
            ("storageClassName", "fast", ("storageClassName",), None),
            ("accessModes", ["ReadWriteOnce"], ("accessModes",), ["ReadWriteMany"]),
        )
    ),
    Pair(
        path="modelCache.volume",
        value={"emptyDir": {}},
        look=volume_of_workloads("cache"),
        unset=None,
        set={"at": "/cache", "emptyDir": {}},
    ),
    *(
        Pair(
            path=f"caBundle.{key}",
            value="ca",
            look=lambda release: (
                volume_of_workloads("ca")(release),
                *(env_everywhere(name)(release) for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")),
            ),
            unset=(None, None, None, None),
            set=({"at": "/etc/tandem/ca", **volume}, CA_FILE, CA_FILE, CA_FILE),
        )
        for key, volume in (("configMap", {"configMap": {"name": "ca"}}), ("secret", {"secret": {"secretName": "ca"}}))
    ),
    Pair(
        path="caBundle.key",
        value="all.pem",
        given={"caBundle": {"secret": "ca"}},
        look=env_everywhere("AWS_CA_BUNDLE"),
        unset=CA_FILE,
        set="/etc/tandem/ca/all.pem",
    ),
    Pair(path="proxy.http", value="http://p:1", look=env_everywhere("HTTP_PROXY"), unset=None, set="http://p:1"),
    Pair(
        path="proxy.https",
        value="http://p:1",
        look=lambda release: (env_everywhere("HTTPS_PROXY")(release), env_everywhere("NO_PROXY")(release)),
        unset=(None, None),
        set=("http://p:1", "localhost,127.0.0.1,$(KUBERNETES_SERVICE_HOST),.svc,.cluster.local"),
    ),
    Pair(
        path="proxy.noProxy",
        value="a,b",
        given={"proxy": {"http": "http://p:1"}},
        look=env_everywhere("NO_PROXY"),
        unset="localhost,127.0.0.1,$(KUBERNETES_SERVICE_HOST),.svc,.cluster.local",
        set="localhost,127.0.0.1,$(KUBERNETES_SERVICE_HOST),.svc,.cluster.local,a,b",
    ),
    Pair(
        path="judge.existingSecret",
        value="judge",
        look=lambda release: environment(release.container("score")).get("TANDEM_JUDGE_API_KEY"),
        unset=None,
        set=ref("judge", "TANDEM_JUDGE_API_KEY"),
    ),
    Pair(
        path="judge.keys",
        value={"OTHER_KEY": "other"},
        given={"judge": {"existingSecret": "judge"}},
        look=lambda release: environment(release.container("score")).get("OTHER_KEY"),
        unset=None,
        set=ref("judge", "other"),
    ),
    Pair(
        path="endpoint.existingSecret",
        value="servers",
        look=lambda release: environment(release.container("generate-endpoint")).get("TANDEM_ENDPOINT_API_KEY"),
        unset=None,
        set=ref("servers", "TANDEM_ENDPOINT_API_KEY"),
    ),
    Pair(
        path="endpoint.keys",
        value={"OTHER_KEY": "other"},
        given={"endpoint": {"existingSecret": "servers"}},
        look=lambda release: environment(release.container("generate-endpoint")).get("OTHER_KEY"),
        unset=None,
        set=ref("servers", "other"),
    ),
]

IMAGES = [
    Pair(
        path="image.registry",
        value="reg/ml/",
        look=lambda release: (image_of("score")(release), image_of_controller(release)),
        unset=("tandem-eval:0.1.0", "tandem-controller:0.1.0"),
        set=("reg/ml/tandem-eval:0.1.0", "reg/ml/tandem-controller:0.1.0"),
    ),
    Pair(
        path="image.pullPolicy",
        value="Always",
        look=lambda release: same([container["imagePullPolicy"] for _, container in release.containers()]),
        unset="IfNotPresent",
        set="Always",
    ),
    Pair(
        path="image.pullSecrets",
        value=["reg"],
        look=lambda release: same([pod["spec"].get("imagePullSecrets") for _, pod in release.pods()]),
        unset=None,
        set=[{"name": "reg"}],
    ),
    Pair(
        path="image.requireDigest",
        value=True,
        look=lambda release: same([profile["requireDigest"] for profile in release.profiles.values()]),
        unset=False,
        set=True,
    ),
    *(
        Pair(path=f"image.{which}.{key}", value=value, look=look, unset=f"tandem-{which}:0.1.0", set=expected)
        for which, look in (
            ("train", image_of("train-8gpu")),
            ("eval", image_of("generate")),
            ("controller", image_of_controller),
        )
        for key, value, expected in (
            ("repository", "other", "other:0.1.0"),
            ("tag", "1.2", f"tandem-{which}:1.2"),
            ("digest", DIGEST, f"tandem-{which}@{DIGEST}"),
        )
    ),
]
