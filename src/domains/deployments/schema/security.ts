import DataLoader from 'dataloader';
import { Prisma, ScannerName, ScanVerdict, Severity, type KnownFinding } from '#prisma';
import { loadUser, UserRef } from '#kernel/auth/schema.ts';
import { builder } from '#kernel/graphql/builder.ts';
import type { Context } from '#kernel/graphql/context.ts';
import { rowId } from '#kernel/graphql/global-id.ts';
import { failing, guardedPart, visible } from '#kernel/graphql/kit.ts';
import { severities } from '#kernel/severity.ts';
import { can } from '../policy.ts';
import { ApplicationRef, applicationSuccess, DeploymentRef } from '../schema.ts';
import { suppressedNow, Suppressions } from '../service/index.ts';

export const SeverityEnum = builder.enumType(Severity, {
  name: 'Severity',
  description: 'How bad a finding is.',
  values: {
    CRITICAL: { description: 'To be dealt with at once: a key that opens something, a hole that anybody can use.' },
    HIGH: { description: 'To be dealt with before it is deployed.' },
    MEDIUM: { description: 'To be dealt with; also where nobody has rated it.' },
    LOW: { description: 'To be dealt with when there is time.' },
    INFO: { description: 'Worth knowing.' },
  },
});

const ScannerEnum = builder.enumType(ScannerName, {
  name: 'ScannerName',
  description: 'Something that looks for weaknesses in a commit.',
  values: {
    SECRETS: { description: 'Keys and tokens in the source.' },
    DEPENDENCIES: { description: 'Dependencies with known vulnerabilities.' },
    DOCKERFILE: { description: 'Dockerfiles.' },
    TRIVY: { description: 'Trivy, where it is installed.' },
  },
});

const VerdictEnum = builder.enumType(ScanVerdict, {
  name: 'ScanVerdict',
  description: 'What became of a security scan.',
  values: {
    PASSED: { description: 'Nothing of it stops the deployment. That is no clean bill: look at `status`, too.' },
    BLOCKED_BY_FINDINGS: { description: 'Findings stopped the deployment; those are `blocking`.' },
    BLOCKED_AS_INCOMPLETE: { description: 'A scanner did not look at everything, and the policy wants that.' },
  },
});

const ScanStatusEnum = builder.enumType('SecurityScanStatus', {
  description: 'Whether a scan left something open.',
  values: {
    COMPLETE: { description: 'Every scanner looked at everything that it covers.' },
    INCOMPLETE: { description: 'A scanner did not run, failed, or left something out: no findings mean little.' },
  } as const,
});

const ScannerStatusEnum = builder.enumType('ScannerStatus', {
  description: 'What a scanner did.',
  values: {
    RAN: { description: 'It looked at everything that it covers.' },
    PARTIAL: { description: 'It left something out; `reason` tells what.' },
    NOT_RUN: { description: 'It did not begin; `reason` tells why.' },
    FAILED: { description: 'It did not come to an end; `reason` tells why.' },
    OFF: { description: 'The operator of the server has turned it off: it is no part of the scan.' },
  } as const,
});

/** As it is kept in SecurityScan.scanners. */
interface ReportRow {
  readonly scanner: ScannerName;
  readonly status: 'RAN' | 'PARTIAL' | 'NOT_RUN' | 'FAILED' | 'OFF';
  readonly reason: string | null;
  readonly version: string | null;
  readonly database: { readonly name: string; readonly date: string | null } | null;
  readonly covers: string;
  readonly notes: readonly string[];
  readonly scannedAt: Date;
}

const AdvisoryDatabaseRef = builder
  .objectRef<NonNullable<ReportRow['database']> & { scannedAt: Date }>('AdvisoryDatabase')
  .implement({
    description: 'Where a scanner knows vulnerabilities from.',
    fields: (t) => ({
      name: t.exposeString('name', { description: 'What it is.' }),
      date: t.field({
        type: 'DateTime',
        nullable: true,
        description: 'Of its newest entry, or of when it was asked; null: it does not say.',
        resolve: ({ date }) => (date === null ? null : new Date(date)),
      }),
      ageDays: t.int({
        nullable: true,
        description:
          'How old it was when the commit was scanned, days. What was published since, the scan does not know.',
        resolve: ({ date, scannedAt }) =>
          date === null ? null : Math.max(0, Math.floor((scannedAt.getTime() - Date.parse(date)) / 86_400_000)),
      }),
    }),
  });

const ReportRef = builder.objectRef<ReportRow>('ScannerReport').implement({
  description: 'What one scanner did.',
  fields: (t) => ({
    scanner: t.expose('scanner', { type: ScannerEnum, description: 'Which one.' }),
    status: t.expose('status', { type: ScannerStatusEnum, description: 'Whether it looked.' }),
    reason: t.exposeString('reason', { nullable: true, description: 'Why it is not RAN; null: it is.' }),
    version: t.exposeString('version', { nullable: true, description: 'Program or library, with its version.' }),
    database: t.field({
      type: AdvisoryDatabaseRef,
      nullable: true,
      description: 'What it looked things up in; null: it needs none, or did not run.',
      resolve: ({ database, scannedAt }) => (database ? { ...database, scannedAt } : null),
    }),
    covers: t.exposeString('covers', { description: 'What it looks at, and what it does not.' }),
    notes: t.stringList({ description: 'What it skipped, and the like.', resolve: ({ notes }) => [...notes] }),
  }),
});

const SeverityCountRef = builder
  .objectRef<{ severity: Severity; open: number; suppressed: number }>('SeverityCount')
  .implement({
    description: 'How many findings of a severity there are.',
    fields: (t) => ({
      severity: t.expose('severity', { type: SeverityEnum, description: 'Which severity.' }),
      open: t.exposeInt('open', { description: 'Those that are not suppressed now.' }),
      suppressed: t.exposeInt('suppressed', { description: 'Those that are suppressed now.' }),
    }),
  });

type Suppressed = Pick<KnownFinding, 'suppressedAt' | 'suppressedById' | 'reason' | 'expiresAt'>;
const SuppressionRef = builder.objectRef<Suppressed & { suppressedAt: Date }>('Suppression').implement({
  description: 'The decision to live with a finding, in every commit of an application.',
  fields: (t) => ({
    reason: t.string({ description: 'Why.', resolve: ({ reason }) => reason ?? '' }),
    at: t.field({ type: 'DateTime', description: 'Since when.', resolve: ({ suppressedAt }) => suppressedAt }),
    by: t.field({
      type: UserRef,
      nullable: true,
      description: 'Who decided it, or made the API key that did; null: somebody you share no workspace with any more.',
      resolve: ({ suppressedById }, _, context) => loadUser(context, suppressedById),
    }),
    expiresAt: t.field({
      type: 'DateTime',
      nullable: true,
      description: 'When the finding counts again; null: never.',
      resolve: ({ expiresAt }) => expiresAt,
    }),
  }),
});

/** The suppression that holds now. */
const holding = ({ suppressedAt, ...rest }: Suppressed): (Suppressed & { suppressedAt: Date }) | null =>
  suppressedAt !== null && (rest.expiresAt === null || rest.expiresAt > new Date()) ? { suppressedAt, ...rest } : null;

const FindingRef = builder.prismaObject('Finding', {
  description: 'Something that a scanner found in one commit. Of a secret it tells where it is, never what it is.',
  authScopes: guardedPart('Finding').authScopes,
  fields: (t) => ({
    fingerprint: t.exposeString('fingerprint', {
      description: 'The same for the same finding in every commit of the application: for `suppressFinding`.',
    }),
    scanner: t.expose('scanner', { type: ScannerEnum, description: 'What found it.' }),
    severity: t.expose('severity', { type: SeverityEnum, description: 'How bad it is.' }),
    rule: t.exposeString('rule'),
    title: t.exposeString('title', { description: 'What it is, in a line.' }),
    file: t.exposeString('file', { nullable: true }),
    line: t.exposeInt('line', { nullable: true, description: 'Line of the file, from 1.' }),
    packageName: t.exposeString('packageName', { nullable: true }),
    installedVersion: t.exposeString('installedVersion', {
      nullable: true,
      description: 'Its version in the lock file; several are separated by commas.',
    }),
    fixedVersion: t.exposeString('fixedVersion', {
      nullable: true,
      description: 'The least newer version that is said to be good; null: none is told.',
    }),
    advisoryId: t.exposeString('advisoryId', { nullable: true, description: 'For instance a GHSA or CVE number.' }),
    advisoryUrl: t.exposeString('advisoryUrl', { nullable: true, description: 'Where the advisory can be read.' }),
    blocking: t.exposeBoolean('blocking'),
    firstSeenAt: t.field({
      type: 'DateTime',
      description: 'When a deployment of the application first had it.',
      compiled: 'selected',
      select: { known: { select: { firstSeenAt: true } } },
      resolve: ({ known }) => known.firstSeenAt,
    }),
    suppression: t.field({
      type: SuppressionRef,
      nullable: true,
      description: 'The suppression that holds now; null: it counts.',
      select: { known: { select: { suppressedAt: true, suppressedById: true, reason: true, expiresAt: true } } },
      resolve: ({ known }) => holding(known),
    }),
  }),
});

const KnownFindingRef = builder.prismaObject('KnownFinding', {
  name: 'SuppressedFinding',
  description: 'A finding that somebody decided to live with.',
  authScopes: guardedPart('KnownFinding').authScopes,
  fields: (t) => ({
    fingerprint: t.exposeString('fingerprint', { description: 'For `unsuppressFinding`.' }),
    firstSeenAt: t.expose('firstSeenAt', { type: 'DateTime', description: 'When a deployment first had it.' }),
    suppression: t.field({
      type: SuppressionRef,
      nullable: true,
      description: 'Who, when and why; null: it has ended by now.',
      select: { suppressedAt: true, suppressedById: true, reason: true, expiresAt: true },
      resolve: holding,
    }),
    latest: t.field({
      type: FindingRef,
      nullable: true,
      description: 'As it was found last; null: no deployment is kept that had it.',
      select: (_args, _context, nested) => ({
        findings: { take: 1, orderBy: { id: 'desc' as const }, ...(nested() as object) },
      }),
      resolve: (row) => (row as unknown as { findings: never[] }).findings[0] ?? null,
    }),
  }),
});

const counters = new WeakMap<Context, DataLoader<string, { severity: Severity; open: number; suppressed: number }[]>>();

/** Findings by severity; of many scans in one statement. */
function countFindings(context: Context, scanId: string) {
  let loader = counters.get(context);
  if (!loader) {
    loader = new DataLoader(async (ids) => {
      const rows = await context.app.db.$queryRaw<
        { scanId: string; severity: Severity; count: number; suppressed: number }[]
      >`
        select f.scan_id as "scanId", f.severity::text as severity, count(*)::int as count,
          (count(*) filter (where k.suppressed_at is not null and (k.expires_at is null or k.expires_at > now())))::int
            as suppressed
        from finding f join known_finding k using (application_id, fingerprint)
        where f.scan_id in (${Prisma.join(ids.map((id) => Prisma.sql`${id}::uuid`))}) group by 1, 2`;
      const byScan = Map.groupBy(rows, (row) => row.scanId);
      return ids.map((id) =>
        severities.map((severity) => {
          const found = byScan.get(id)?.find((row) => row.severity === severity);
          const suppressed = found?.suppressed ?? 0;
          return { severity, open: (found?.count ?? 0) - suppressed, suppressed };
        }),
      );
    });
    counters.set(context, loader);
  }
  return loader.load(scanId);
}

const SecurityScanRef = builder.prismaObject('SecurityScan', {
  description: 'What the scanners said about the commit of a deployment, before anything of it was executed.',
  authScopes: guardedPart('SecurityScan').authScopes,
  fields: (t) => ({
    status: t.field({
      type: ScanStatusEnum,
      description: 'Whether every scanner looked at everything that it covers.',
      resolve: ({ complete }) => (complete ? 'COMPLETE' : 'INCOMPLETE'),
    }),
    verdict: t.expose('verdict', { type: VerdictEnum, description: 'What became of it.' }),
    scannedAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was over.' }),
    blockAtSeverity: t.expose('blockAtSeverity', {
      type: SeverityEnum,
      nullable: true,
      description: 'The policy of the time: from which severity on a finding stopped the deployment; null: never.',
    }),
    requireCompleteScan: t.exposeBoolean('requireCompleteScan', {
      description: 'The policy of the time: whether an incomplete scan stopped the deployment.',
    }),
    scanners: t.field({
      type: [ReportRef],
      description: 'What each scanner did. One that did not run found nothing and says nothing.',
      resolve: ({ scanners, createdAt }) =>
        (scanners as unknown as ReportRow[]).map((one) => ({ ...one, scannedAt: createdAt })),
    }),
    counts: t.field({
      type: [SeverityCountRef],
      description: 'Its findings by severity, the worst first, with the suppressions of now.',
      resolve: ({ id }, _, context) => countFindings(context, id),
    }),
    findings: t.relatedConnection('findings', {
      cursor: 'id',
      totalCount: true,
      description: 'What was found, the worst first.',
      args: {
        severity: t.arg({ type: [SeverityEnum], required: false, description: 'Only those of these severities.' }),
        scanner: t.arg({ type: [ScannerEnum], required: false, description: 'Only those of these scanners.' }),
        suppressed: t.arg.boolean({ required: false, description: 'Only those that are, or are not, suppressed now.' }),
        blocking: t.arg.boolean({
          required: false,
          description: 'Only those that did, or did not, stop the deployment.',
        }),
      },
      query: ({ severity, scanner, suppressed, blocking }, context) => ({
        where: visible(context, 'Finding', {
          ...(severity ? { severity: { in: severity } } : {}),
          ...(scanner ? { scanner: { in: scanner } } : {}),
          ...(suppressed == null ? {} : { known: suppressed ? suppressedNow() : { NOT: suppressedNow() } }),
          ...(blocking == null ? {} : { blocking }),
        }),
        orderBy: [{ severity: 'asc' as const }, { id: 'asc' as const }],
      }),
    }),
  }),
});

builder.prismaObjectField(DeploymentRef, 'securityScan', (t) =>
  t.field({
    type: SecurityScanRef,
    nullable: true,
    description:
      'What the scanners said; null: it is not scanned yet, or brings back a release that was scanned before.',
    compiled: 'selected',
    select: (_args, _context, nested) => ({ deployment: { select: { securityScan: nested() } } }),
    resolve: (run) =>
      (run as unknown as { deployment: { securityScan: never } | null }).deployment?.securityScan ?? null,
  }),
);

builder.prismaObjectFields(ApplicationRef, (t) => ({
  blockAtSeverity: t.expose('blockAtSeverity', {
    type: SeverityEnum,
    nullable: true,
    description: 'A deployment with a finding of this severity or a worse one fails; null: findings never stop one.',
  }),
  requireCompleteScan: t.exposeBoolean('requireCompleteScan', {
    description: 'Whether a deployment fails when a scanner could not look at everything.',
  }),
  suppressedFindings: t.relatedConnection('knownFindings', {
    type: KnownFindingRef,
    cursor: 'id',
    totalCount: true,
    description: 'Findings that are suppressed now, those that were found last first.',
    query: (_, context) => ({
      where: visible(context, 'KnownFinding', suppressedNow()),
      orderBy: { id: 'desc' as const },
    }),
  }),
}));

const applicationId = { description: 'Global id of the application.' } as const;
const fingerprint = { description: 'The finding, as `Finding.fingerprint` tells it.' } as const;

builder.mutationFields((t) => ({
  setScanPolicy: t.fieldWithInput({
    access: can.setScanPolicy,
    type: applicationSuccess('SetScanPolicySuccess', 'It holds for scans that end from now on.'),
    errors: failing(),
    description:
      'Decides which findings stop deployments of an application. Without it findings are told and stop nothing.',
    input: {
      applicationId: t.input.id(applicationId),
      blockAtSeverity: t.input.field({
        type: SeverityEnum,
        required: false,
        description: 'From this severity on a finding stops a deployment; null: never. Absent: as before.',
      }),
      requireCompleteScan: t.input.boolean({
        required: false,
        description: 'Whether a scan that could not look at everything stops a deployment. Absent: as before.',
      }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Suppressions).setPolicy(actor, { ...input, applicationId: rowId('Application', input.applicationId) }),
  }),
  suppressFinding: t.fieldWithInput({
    access: can.suppressFinding,
    type: applicationSuccess('SuppressFindingSuccess', 'The finding stops no deployment of the application any more.'),
    errors: failing(),
    description:
      'Decides to live with a finding, in every commit of the application. A deployment that it stopped can be retried.',
    input: {
      applicationId: t.input.id(applicationId),
      fingerprint: t.input.string(fingerprint),
      reason: t.input.string({ description: 'Why, for those who come after: 1 to 1000 characters.' }),
      expiresAt: t.input.field({
        type: 'DateTime',
        required: false,
        description: 'When the finding counts again; without it: when somebody says so.',
      }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Suppressions).suppress(actor, { ...input, applicationId: rowId('Application', input.applicationId) }),
  }),
  unsuppressFinding: t.fieldWithInput({
    access: can.unsuppressFinding,
    type: applicationSuccess('UnsuppressFindingSuccess', 'The finding counts again.'),
    errors: failing(),
    description: 'Makes a suppressed finding count again, from the next scan on.',
    input: {
      applicationId: t.input.id(applicationId),
      fingerprint: t.input.string(fingerprint),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Suppressions).unsuppress(actor, { ...input, applicationId: rowId('Application', input.applicationId) }),
  }),
}));
