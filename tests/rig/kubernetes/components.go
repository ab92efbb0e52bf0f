//go:build components

// Package rig pins the real Kubernetes and etcd that the rig runs. Nothing imports it: the programs
// are built by import path, and these imports keep their versions in go.mod.
package rig

import (
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kube-scheduler"
	_ "k8s.io/kubernetes/cmd/kubeadm"
)
