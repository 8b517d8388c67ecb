import { readFile } from 'node:fs/promises';
import { findTrees, type ProcessIdentity } from '#kernel/processes/children.ts';
import { codeOf } from '#kernel/system-error.ts';

/** What an instance has used since it began, all of its processes together. */
export interface ProcessUsage {
  readonly cpuMs: number | null;
  readonly memoryBytes: number | null;
  readonly memoryLimitBytes: null;
  readonly diskReadBytes: number | null;
  readonly diskWrittenBytes: number | null;
  readonly networkReceivedBytes: null;
  readonly networkSentBytes: null;
  readonly missing: Readonly<
    Partial<Record<'CPU' | 'MEMORY' | 'MEMORY_LIMIT' | 'DISK' | 'NETWORK', 'SHARED_WITH_HOST' | 'NO_LIMIT' | 'OTHER_SYSTEM' | 'NOT_REPORTED'>> // prettier-ignore
  >;
}

/** Clock ticks a second of /proc, the same on every Linux that Node has builds for. */
const ticksPerS = 100;

/** Processes share the host's network; their limit of memory is the JavaScript heap's, which nobody can ask for. */
const never = { NETWORK: 'SHARED_WITH_HOST', MEMORY_LIMIT: 'NO_LIMIT' } as const;
const unknown = { memoryLimitBytes: null, networkReceivedBytes: null, networkSentBytes: null } as const;

/** What instances have used, in their order; null: it does not run. */
export async function usageOf(identities: readonly ProcessIdentity[]): Promise<(ProcessUsage | null)[]> {
  const trees = await findTrees(identities);
  return Promise.all(
    trees.map(async (tree, index) => {
      if (!tree.some((one) => one.pid === identities[index]?.pid)) return null;
      if (process.platform !== 'linux') {
        const other = 'OTHER_SYSTEM' as const;
        const none = { cpuMs: null, memoryBytes: null, diskReadBytes: null, diskWrittenBytes: null };
        return { ...unknown, ...none, missing: { ...never, CPU: other, MEMORY: other, DISK: other } };
      }
      const all = (await Promise.all(tree.map(({ pid }) => read(pid)))).filter((one) => one !== null);
      const sum = (of: (one: OneProcess) => number | null): number | null =>
        all.reduce<number | null>((total, one) => {
          const value = of(one);
          return total === null || value === null ? null : total + value;
        }, 0);
      const disk = sum((one) => one.diskReadBytes);
      return {
        ...unknown,
        cpuMs: sum((one) => one.cpuMs),
        memoryBytes: sum((one) => one.memoryBytes),
        diskReadBytes: disk,
        diskWrittenBytes: sum((one) => one.diskWrittenBytes),
        // Another user's counters are root's to read.
        missing: { ...never, ...(disk === null ? { DISK: 'NOT_REPORTED' as const } : {}) },
      };
    }),
  );
}

interface OneProcess {
  readonly cpuMs: number;
  readonly memoryBytes: number;
  readonly diskReadBytes: number | null;
  readonly diskWrittenBytes: number | null;
}

/** Null: it ended in the meantime. @see https://man7.org/linux/man-pages/man5/proc.5.html */
async function read(pid: number): Promise<OneProcess | null> {
  try {
    const [stat, memoryBytes, io] = await Promise.all([
      readFile(`/proc/${pid}/stat`, 'utf8'),
      memoryOf(pid),
      readFile(`/proc/${pid}/io`, 'utf8').catch(refusedAsNull),
    ]);
    // After the name, which may contain anything: utime, stime and those of the children that it has waited for.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const ticks = fields.slice(11, 15).reduce((total, one) => total + Number(one), 0);
    const counter = (name: string): number | null =>
      io === null ? null : Number(new RegExp(`^${name}: (\\d+)`, 'm').exec(io)?.[1] ?? 0);
    return {
      cpuMs: (ticks * 1000) / ticksPerS,
      memoryBytes,
      diskReadBytes: counter('read_bytes'),
      diskWrittenBytes: counter('write_bytes'),
    };
  } catch (error) {
    if (['ENOENT', 'ESRCH'].includes(String(codeOf(error)))) return null;
    throw error;
  }
}

/** Its share of what it has in memory; what it shares counts once among those who share it. */
async function memoryOf(pid: number): Promise<number> {
  const shares = await readFile(`/proc/${pid}/smaps_rollup`, 'utf8').catch(refusedAsNull);
  const share = shares && /^Pss:\s+(\d+) kB/m.exec(shares)?.[1];
  if (share) return Number(share) * 1024;
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) * 1024;
}

function refusedAsNull(error: unknown): null {
  if (['EACCES', 'EPERM'].includes(String(codeOf(error)))) return null;
  throw error;
}
