"""An authority that signs certificates, made with openssl."""

import ssl
import subprocess
from pathlib import Path


class Authority:
    """Signs certificates; everything is in one folder."""

    def __init__(self, folder, name):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.made = 0
        self.pem = self.folder / "authority.pem"
        self.key = self.folder / "authority.key"
        self.openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", f"/CN={name}", "-days", "30", "-keyout", self.key, "-out", self.pem),
        )

    def openssl(self, *arguments):
        command = ["openssl", *map(str, arguments)]
        made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert made.returncode == 0, made.stderr

    def sign(self, subject, extensions=""):
        """A certificate for `subject` ("/O=x/CN=y"); returns the paths of it and of its key."""
        self.made += 1
        stem = self.folder / f"{self.made}"
        request, certificate, key = (stem.with_suffix(end) for end in (".csr", ".pem", ".key"))
        options = stem.with_suffix(".ext")
        options.write_text(f"basicConstraints=CA:FALSE\n{extensions}\n")
        self.openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-utf8"),
            *("-subj", subject, "-keyout", key, "-out", request),
        )
        self.openssl(
            *("x509", "-req", "-in", request, "-CA", self.pem, "-CAkey", self.key, "-set_serial", self.made),
            *("-days", "30", "-extfile", options, "-out", certificate),
        )
        return certificate, key

    def server(self):
        return self.sign("/CN=localhost", "subjectAltName=IP:127.0.0.1")

    def trust(self, identity=None):
        """A client's context that trusts this authority and shows `identity`."""
        context = ssl.create_default_context(cafile=self.pem)
        if identity is not None:
            context.load_cert_chain(*identity)
        return context
