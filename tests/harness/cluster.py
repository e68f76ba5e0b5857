"""Several leveret nodes on loopback as one cluster: started, killed, stopped and started again one by one."""

from .servers import Leveret, free_port


class Cluster:
    """`count` nodes that found a cluster of each other; node n is `nodes[n]`, a `Leveret`."""

    def __init__(self, binary, base, count=3, **settings):
        base.mkdir(parents=True, exist_ok=True)
        cookie = base / "cookie"
        cookie.write_text("a secret of these tests")
        cookie.chmod(0o600)
        ports = [free_port() for _ in range(count)]
        self.nodes = []
        for at in range(count):
            own = {
                "leveret.node_name": f"node{at + 1}@127.0.0.1",
                "cluster.listen": f"127.0.0.1:{ports[at]}",
                "cluster.cookie_file": str(cookie),
                **settings,
            }
            for other, port in enumerate(ports):
                own[f"cluster_formation.classic_config.nodes.{other + 1}"] = f"node{other + 1}@127.0.0.1:{port}"
            self.nodes.append(Leveret(binary, base / f"node{at + 1}", settings=own))

    def start(self):
        """Starts those that do not run, and waits until all serve."""
        stopped = [node for node in self.nodes if node.process is None]
        for node in stopped:
            node.start(wait=False)
        for node in stopped:
            node.wait_serving()
        return self

    def kill(self):
        for node in self.nodes:
            node.kill()

    def close(self):
        for node in self.nodes:
            node.close()
