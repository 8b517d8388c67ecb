import type Docker from 'dockerode';

/** What a container has used since it began, of the engine's own figures. */
export function toUsage(stats: Docker.ContainerStats) {
  const memory = memoryOf(stats);
  const limit = stats.memory_stats.limit ?? null;
  const disk = stats.blkio_stats?.io_service_bytes_recursive as
    { readonly op: string; readonly value: number }[] | null | undefined;
  const bytes = (op: string): number | null =>
    disk?.filter((one) => one.op.toLowerCase() === op).reduce((total, { value }) => total + value, 0) ?? null;
  const networks = Object.values((stats.networks as Docker.ContainerStats['networks'] | undefined) ?? {});
  const sum = (of: (one: (typeof networks)[number]) => number): number | null =>
    networks.length === 0 ? null : networks.reduce((total, one) => total + of(one), 0);
  const none = 'NOT_REPORTED' as const;
  return {
    cpuMs: stats.cpu_stats.cpu_usage.total_usage / 1e6,
    memoryBytes: memory,
    memoryLimitBytes: limit,
    diskReadBytes: bytes('read'),
    diskWrittenBytes: bytes('write'),
    networkReceivedBytes: sum((one) => one.rx_bytes),
    networkSentBytes: sum((one) => one.tx_bytes),
    missing: {
      ...(memory === null ? { MEMORY: none } : {}),
      ...(limit === null ? { MEMORY_LIMIT: none } : {}),
      ...(disk ? {} : { DISK: none }),
      ...(networks.length === 0 ? { NETWORK: none } : {}),
    },
  };
}

/** Without what the system would give up at once, as the engine's own command line counts it. */
function memoryOf({ memory_stats: memory }: Docker.ContainerStats): number | null {
  const { usage } = memory as { usage?: number };
  if (usage === undefined) return null;
  const details = (memory as { stats?: { inactive_file?: number; total_inactive_file?: number } }).stats;
  const inactive = details?.total_inactive_file ?? details?.inactive_file ?? 0;
  return inactive < usage ? usage - inactive : usage;
}
