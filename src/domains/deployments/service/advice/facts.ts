import type { ScannerName, Severity } from '#prisma';
import type { App } from '#kernel/app.ts';
import { toLogLevel, type LogLevel } from '#kernel/runs/log-level.ts';
import type { DriverName } from '../driver.ts';
import { suppressedNow } from '../scan.ts';

/** What advice points at. */
export interface Evidence {
  readonly kind: 'FINDING' | 'LOG_LINE' | 'METRIC' | 'STEP' | 'SCANNER';
  /** Fingerprint of a finding, seq of a line, name of a figure, a step or a scanner. */
  readonly ref: string;
  /** What is said there, shortened. */
  readonly text: string;
}

export interface Advised {
  readonly severity: Severity;
  readonly title: string;
  readonly text: string;
  /** At least one. */
  readonly evidence: readonly Evidence[];
}

export interface FindingFact {
  readonly fingerprint: string;
  readonly scanner: ScannerName;
  readonly severity: Severity;
  readonly rule: string;
  readonly title: string;
  readonly file: string | null;
  readonly line: number | null;
  readonly packageName: string | null;
  readonly installedVersion: string | null;
  readonly fixedVersion: string | null;
}

export interface LineFact {
  readonly seq: string;
  readonly step: string | null;
  readonly stream: 'STDOUT' | 'STDERR' | 'SYSTEM';
  readonly level: LogLevel | null;
  readonly text: string;
}

/** Figures of what serves; null: nobody has told. */
export interface Figures {
  readonly looks: number;
  /** Parts of the looks at which it answered. */
  readonly healthy: number;
  readonly latencyMs: number | null;
  readonly memoryBytesMost: number | null;
  readonly memoryLimitBytes: number | null;
  readonly cpusMost: number | null;
}

/** Everything that advice on a deployment is drawn from, and nothing else. */
export interface Facts {
  readonly workspaceId: string;
  readonly applicationId: string;
  readonly environmentVersion: number;
  readonly phase: string;
  readonly reason: string | null;
  readonly driver: DriverName | null;
  readonly healthCheckPath: string;
  readonly healthTimeoutS: number;
  readonly steps: readonly { readonly name: string; readonly status: string; readonly seconds: number | null }[];
  readonly scanners: readonly {
    readonly scanner: ScannerName;
    readonly status: string;
    readonly reason: string | null;
    readonly notes: readonly string[];
  }[];
  /** The worst first; those that are suppressed are left out. */
  readonly findings: readonly FindingFact[];
  /** In order; of a long output its end, and what says that it is a warning or worse. */
  readonly lines: readonly LineFact[];
  /** How often its instance was started again since it serves. */
  readonly restarts: number;
  readonly figures: Figures | null;
}

/** More of a line would be no evidence, and patterns of rules cost the square of it. */
const most = { findings: 200, lines: 3000, warnings: 500, chars: 300 } as const;

/** Null: there is no such deployment, it is not over, or nobody wants advice on it: it was canceled or superseded. */
export async function factsOf(app: App, deploymentId: string): Promise<Facts | null> {
  const run = await app.db.run.findUnique({
    where: { id: deploymentId },
    select: {
      workspaceId: true,
      phase: true,
      statusReason: true,
      completedAt: true,
      steps: { orderBy: { position: 'asc' } },
      deployment: {
        select: {
          environmentVersion: true,
          application: {
            select: { id: true, healthCheckPath: true, healthTimeoutS: true, driver: true, activeReleaseId: true },
          },
          release: { select: { id: true, driver: true, activatedAt: true, restarts: true } },
          securityScan: {
            select: {
              scanners: true,
              findings: {
                where: { known: { NOT: suppressedNow() } },
                orderBy: [{ severity: 'asc' }, { id: 'asc' }],
                take: most.findings,
              },
            },
          },
        },
      },
    },
  });
  if (!run?.deployment || !run.completedAt || run.phase === 'CANCELED' || run.phase === 'SUPERSEDED') return null;
  const { application, release, securityScan, environmentVersion } = run.deployment;
  const serves = release !== null && release.id === application.activeReleaseId;
  return {
    workspaceId: run.workspaceId,
    applicationId: application.id,
    environmentVersion,
    phase: run.phase,
    reason: run.statusReason,
    driver: release?.driver ?? application.driver,
    healthCheckPath: application.healthCheckPath,
    healthTimeoutS: application.healthTimeoutS,
    steps: run.steps.map(({ name, status, startedAt, completedAt }) => ({
      name,
      status,
      seconds: startedAt && completedAt ? (completedAt.getTime() - startedAt.getTime()) / 1000 : null,
    })),
    scanners: (securityScan?.scanners ?? []) as unknown as Facts['scanners'],
    findings: securityScan?.findings ?? [],
    lines: await linesOf(app, deploymentId),
    restarts: serves ? release.restarts : 0,
    figures: serves && release.activatedAt ? await figuresOf(app, application.id, release.activatedAt) : null,
  };
}

async function linesOf(app: App, runId: string): Promise<LineFact[]> {
  const { rows } = await app.database.pool.query<Omit<LineFact, 'level'> & { level: number | null }>(
    `select seq, step, stream, level, left(text, ${most.chars}) as text from (
       (select * from log_line where run_id = $1 order by seq desc limit ${most.lines})
       union (select * from log_line where run_id = $1 and level <= 4 order by seq limit ${most.warnings})
     ) l order by seq`,
    [runId],
  );
  return rows.map((row) => ({ ...row, level: toLogLevel(row.level) }));
}

async function figuresOf(app: App, applicationId: string, since: Date): Promise<Figures | null> {
  const { rows } = await app.database.pool.query<Figures>(
    `select coalesce(sum(probes), 0)::int looks, coalesce(sum(healthy), 0)::int healthy, avg(latency_ms) "latencyMs",
       max(memory_bytes_most) "memoryBytesMost", max(memory_limit_bytes) "memoryLimitBytes",
       max(milli_cpus_most) / 1000 "cpusMost"
     from metric_point where application_id = $1 and span_s = 0 and at >= $2`,
    [applicationId, since],
  );
  return rows[0] && rows[0].looks > 0 ? rows[0] : null;
}
