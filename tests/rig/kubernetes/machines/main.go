// Machines plays what a cluster has around its control plane: nodes without kubelets, the controller of
// proxmox-csi, and VMs that boot, read their cloud-init data and join. Where the real thing's code can run
// here it does: discovery and join configuration are kubeadm's, the TLS bootstrap is the kubelet's.
//
// It is a part of the rig under tests/rig and speaks to loopback addresses only.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/klog/v2"
)

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var run func(context.Context) error
	set := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	switch os.Args[1] {
	case "run":
		run = runFlags(set)
	case "gate":
		run = gateFlags(set)
	default:
		usage()
	}
	klogFlags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(klogFlags)
	_ = klogFlags.Set("logtostderr", "true")
	_ = set.Parse(os.Args[2:])
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: machines run|gate [flags]")
	os.Exit(2)
}
