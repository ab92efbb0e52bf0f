// Command machines plays what a cluster's control plane does not contain: the nodes with their kubelets,
// the CSI attacher of the Proxmox driver, and virtual machines that boot and join. The control plane it
// talks to is a real one; the Proxmox VE side is a double with the same API.
//
// Where the real code can run without a machine below it, it runs: kubeadm's discovery and configuration
// parsing, the kubelet's flag parsing and TLS bootstrap, client-go's lease controller.
package main

import (
	"fmt"
	"os"
)

const usage = `usage: machines COMMAND [flags]

  run    play nodes, the CSI attacher and booting machines
  gate   a TLS proxy before the Kubernetes API that fails on demand

"machines COMMAND --help" lists a command's flags.
`

func main() {
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	var err error
	switch os.Args[1] {
	case "run":
		err = runCommand(os.Args[2:])
	case "gate":
		err = gateCommand(os.Args[2:])
	case "help", "--help", "-h":
		fmt.Print(usage)
	default:
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "machines: %s\n", scrub(err.Error()))
		os.Exit(1)
	}
}
