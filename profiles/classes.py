"""The classes of objects that kernels have rights over, and the rights that lead out. Pure data.

Read by `selinux`. A name in the place of a class may also be a class map of the node, which stands for rights
of any class, so only the kernel's own (security/selinux/include/classmap.h) are taken, by their exact names.
"""

from __future__ import annotations

_FILES = (
    *("file", "dir", "lnk_file", "chr_file", "blk_file", "sock_file", "fifo_file", "anon_inode"),
    *("memfd_file", "fd", "filesystem"),
)
_SOCKETS = (
    *("socket", "tcp_socket", "udp_socket", "rawip_socket", "sctp_socket", "icmp_socket", "dccp_socket"),
    *("unix_stream_socket", "unix_dgram_socket", "packet_socket", "key_socket", "tun_socket"),
    *("appletalk_socket", "ax25_socket", "ipx_socket", "netrom_socket", "atmpvc_socket", "atmsvc_socket"),
    *("x25_socket", "rose_socket", "decnet_socket", "rds_socket", "irda_socket", "pppox_socket"),
    *("llc_socket", "can_socket", "tipc_socket", "bluetooth_socket", "iucv_socket", "rxrpc_socket"),
    *("isdn_socket", "phonet_socket", "ieee802154_socket", "caif_socket", "alg_socket", "nfc_socket"),
    *("vsock_socket", "kcm_socket", "qipcrtr_socket", "smc_socket", "xdp_socket", "mctp_socket"),
    *("netlink_socket", "netlink_route_socket", "netlink_tcpdiag_socket", "netlink_nflog_socket"),
    *("netlink_xfrm_socket", "netlink_selinux_socket", "netlink_iscsi_socket", "netlink_audit_socket"),
    *("netlink_fib_lookup_socket", "netlink_connector_socket", "netlink_netfilter_socket"),
    *("netlink_dnrt_socket", "netlink_kobject_uevent_socket", "netlink_generic_socket"),
    *("netlink_scsitransport_socket", "netlink_rdma_socket", "netlink_crypto_socket"),
    *("netlink_firewall_socket", "netlink_ip6fw_socket"),
)
_NETWORK = ("node", "netif", "association", "packet", "peer", "infiniband_pkey", "infiniband_endport")
_PROCESSES = (
    *("process", "process2", "capability", "capability2", "cap_userns", "cap2_userns", "user_namespace"),
    *("sem", "msg", "msgq", "shm", "ipc", "key", "binder", "memprotect", "io_uring"),
)
_KERNEL = ("security", "system", "kernel_service", "bpf", "perf_event", "lockdown")
# Of programs that ask the policy themselves; containers talk to these.
_PROGRAMS = ("dbus", "nscd")
CLASSES = frozenset({*_FILES, *_SOCKETS, *_NETWORK, *_PROCESSES, *_KERNEL, *_PROGRAMS})

# What changes the kernel or its policy, whoever it is asked of: checked against the process itself.
CHANGES_THE_KERNEL: dict[str, frozenset[str]] = {
    "system": frozenset(
        {
            *("module_load", "firmware_load", "kexec_image_load", "kexec_initramfs_load", "policy_load"),
            "x509_certificate_load",
        }
    ),
    **dict.fromkeys(("capability", "cap_userns"), frozenset({"sys_module"})),
    **dict.fromkeys(("capability2", "cap2_userns"), frozenset({"mac_admin", "mac_override"})),
}
# What lets a container out, or changes the node's policy, over a type that is not the module's.
LEADS_OUT: dict[str, frozenset[str]] = {
    **CHANGES_THE_KERNEL,
    "security": frozenset({"load_policy", "setenforce", "setbool", "setsecparam", "setcheckreqprot"}),
    "process": frozenset({"transition", "dyntransition", "ptrace"}),
    "process2": frozenset({"nnp_transition", "nosuid_transition"}),
}
