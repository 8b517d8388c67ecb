import type { Application, Prisma, ScanVerdict, Severity } from '#prisma';
import { excerpt } from '#kernel/errors.ts';
import { newId } from '#kernel/ids.ts';
import type { RunContext, StepContext } from '#kernel/runs/context.ts';
import { isAtLeast, severities } from '#kernel/severity.ts';
import type { Report } from '../../../integrations/scanners/index.ts';
import { BlockedByFindings, ScanIncomplete } from '../errors.ts';
import { securityScanned } from '../events.ts';
import type { DeploymentInput } from '../model.ts';
import { Scanning } from './scanning.ts';

const timeoutS = 900;
/** Findings that the log and the reason of a failure name. */
const named = { inLog: 20, inReason: 5 } as const;

/** Suppressions that hold now. */
export const suppressedNow = () =>
  ({
    suppressedAt: { not: null },
    OR: [{ expiresAt: null }, { expiresAt: { gt: new Date() } }],
  }) satisfies Prisma.KnownFindingWhereInput;

/**
 * Scans the commit before anything of it is executed. What was found is kept whatever comes of it.
 * @throws {BlockedByFindings} {ScanIncomplete}
 */
export async function scanCommit(
  context: RunContext<DeploymentInput>,
  application: Pick<Application, 'id' | 'scanKey'>,
  laidOut: (step: StepContext) => Promise<string>,
): Promise<void> {
  await context.step('scan', { timeoutS }, async (step) => {
    // An execution that was lost may have written it.
    const before = await context.app.db.securityScan.findUnique({
      where: { deploymentId: context.run.id },
      select: { verdict: true },
    });
    const verdict = before?.verdict ?? (await scan(context, application, step, await laidOut(step)));
    if (verdict === 'BLOCKED_BY_FINDINGS') throw new BlockedByFindings(await whichBlock(context));
    if (verdict === 'BLOCKED_AS_INCOMPLETE') throw new ScanIncomplete(await whatIsMissing(context));
    return null;
  });
}

async function scan(
  context: RunContext<DeploymentInput>,
  application: Pick<Application, 'id' | 'scanKey'>,
  step: StepContext,
  folder: string,
): Promise<ScanVerdict> {
  const { scanners } = context.app.use(Scanning);
  const reports = await scanners.scan({
    folder,
    key: application.scanKey,
    signal: step.signal,
    record: (child) => step.record(child),
  });
  for (const report of reports) await tell(step, report);
  const { verdict, suppressed } = await save(context, application.id, reports);
  if (suppressed > 0) await step.log(`${suppressed} findings are suppressed.`);
  return verdict;
}

async function tell(step: StepContext, { scanner, status, reason, database, notes, findings }: Report): Promise<void> {
  const age = database?.date ? `, as of ${database.date.slice(0, 10)}` : '';
  const source = database ? ` (${database.name}${age})` : '';
  const what = status === 'RAN' || status === 'PARTIAL' ? `: ${findings.length} findings${source}` : '';
  await step.log(`${scanner} ${status}${what}${reason ? `. ${reason}` : ''}`);
  for (const note of notes) await step.log(`${scanner} ${note}`);
  for (const finding of findings.slice(0, named.inLog)) await step.log(`${scanner} ${describe(finding)}`);
  if (findings.length > named.inLog) await step.log(`${scanner} … and ${findings.length - named.inLog} more.`);
}

interface Described {
  readonly severity: Severity;
  readonly rule: string;
  readonly title: string;
  readonly file: string | null;
  readonly line: number | null;
  readonly packageName: string | null;
  readonly installedVersion: string | null;
}

function describe({ severity, rule, title, file, line, packageName, installedVersion }: Described): string {
  const where = file === null ? '' : ` in ${file}${line === null ? '' : `:${line}`}`;
  const what = packageName === null ? '' : ` ${packageName} ${installedVersion ?? ''}`.trimEnd();
  return `${severity} ${rule}${what}${where}: ${excerpt(title, 120)}`;
}

/** Whether a report leaves nothing open. What the operator has turned off is no part of the scan. */
const isComplete = ({ status }: Pick<Report, 'status'>): boolean => status === 'RAN' || status === 'OFF';

const withoutFindings = ({ scanner, status, reason, version, database, covers, notes }: Report) => ({
  scanner,
  status,
  reason,
  version,
  database: database && { ...database },
  covers,
  notes: [...notes],
});

/** Writes what was found, with what the policy of this moment makes of it. */
function save(
  context: RunContext<DeploymentInput>,
  applicationId: string,
  reports: readonly Report[],
): Promise<{ verdict: ScanVerdict; suppressed: number }> {
  const { trivyRequired } = context.app.use(Scanning);
  const complete = reports.every(isComplete);
  const lacksTrivy = trivyRequired && !reports.some((one) => one.scanner === 'TRIVY' && one.status === 'RAN');
  return context.write(async (tx, run) => {
    // The lock of suppressions and of the policy: what is decided at the same time counts, or comes after.
    await tx.db.$queryRaw`select 1 from application where id = ${applicationId}::uuid for update`;
    const { blockAtSeverity, requireCompleteScan } = await tx.db.application.findUniqueOrThrow({
      where: { id: applicationId },
    });
    const all = reports.flatMap(({ scanner, findings }) => findings.map((finding) => ({ ...finding, scanner })));
    await tx.db.knownFinding.createMany({
      data: all.map(({ fingerprint }) => ({ id: newId(), applicationId, fingerprint })),
      skipDuplicates: true,
    });
    const known = await tx.db.knownFinding.findMany({
      where: { applicationId, ...suppressedNow() },
      select: { fingerprint: true },
    });
    const suppressions = new Set(known.map(({ fingerprint }) => fingerprint));
    const rows = all.map((finding) => ({
      finding,
      isOpen: !suppressions.has(finding.fingerprint),
      blocking:
        blockAtSeverity !== null &&
        !suppressions.has(finding.fingerprint) &&
        isAtLeast(finding.severity, blockAtSeverity),
    }));
    const verdict: ScanVerdict = rows.some(({ blocking }) => blocking)
      ? 'BLOCKED_BY_FINDINGS'
      : (requireCompleteScan && !complete) || lacksTrivy
        ? 'BLOCKED_AS_INCOMPLETE'
        : 'PASSED';
    const scanId = newId();
    await tx.db.securityScan.create({
      data: {
        id: scanId,
        deploymentId: run.id,
        complete,
        verdict,
        blockAtSeverity,
        requireCompleteScan,
        scanners: reports.map(withoutFindings),
      },
    });
    await tx.db.finding.createMany({
      data: rows.map(({ finding, blocking }) => ({ id: newId(), scanId, applicationId, ...finding, blocking })),
    });
    const counts = Object.fromEntries(
      severities.map((severity) => [
        severity,
        rows.filter((row) => row.isOpen && row.finding.severity === severity).length,
      ]),
    ) as Record<Severity, number>;
    const suppressed = rows.filter(({ isOpen }) => !isOpen).length;
    tx.append({
      type: securityScanned,
      workspaceId: run.workspaceId,
      subjectId: run.id,
      run,
      data: { complete, verdict, counts, suppressed },
    });
    return { verdict, suppressed };
  });
}

async function whichBlock({ app, run }: RunContext<DeploymentInput>): Promise<string> {
  const where = { scan: { deploymentId: run.id }, blocking: true };
  const [count, worst] = await Promise.all([
    app.db.finding.count({ where }),
    app.db.finding.findMany({ where, orderBy: [{ severity: 'asc' }, { id: 'asc' }], take: named.inReason }),
  ]);
  const more = count > worst.length ? `; and ${count - worst.length} more` : '';
  return `The security scan found ${count} that stop it: ${worst.map(describe).join('; ')}${more}.`;
}

async function whatIsMissing({ app, run }: RunContext<DeploymentInput>): Promise<string> {
  const { scanners } = await app.db.securityScan.findUniqueOrThrow({ where: { deploymentId: run.id } });
  const missing = (scanners as unknown as Report[])
    .filter((one) => !isComplete(one))
    .map(({ scanner, status, reason }) => `${scanner} ${status}: ${reason ?? ''}`);
  return `The security scan is not complete. ${missing.join(' ')}`.slice(0, 1500);
}
