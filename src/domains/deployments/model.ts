import { z } from 'zod';
import type { Phase } from '#kernel/runs/kinds.ts';
import { severities } from '#kernel/severity.ts';

/**
 * A deployment's state machine. What is scanned must be there: the commit is fetched in SECURITY_SCANNING, too. A
 * release that is restored was scanned and built before. The database refuses any other phase.
 */
export const phases = {
  PENDING: { status: 'QUEUED', next: ['SECURITY_SCANNING', 'DEPLOYING', 'SUPERSEDED', 'CANCELED', 'FAILED'] },
  SECURITY_SCANNING: { status: 'RUNNING', next: ['BUILDING', 'CANCELED', 'FAILED'] },
  BUILDING: { status: 'RUNNING', next: ['DEPLOYING', 'CANCELED', 'FAILED'] },
  DEPLOYING: { status: 'RUNNING', next: ['HEALTH_CHECKING', 'ROLLING_BACK', 'CANCELED', 'FAILED'] },
  HEALTH_CHECKING: { status: 'RUNNING', next: ['DEPLOYED', 'ROLLING_BACK', 'CANCELED', 'FAILED'] },
  ROLLING_BACK: { status: 'RUNNING', next: ['ROLLED_BACK', 'ROLLBACK_FAILED'] },
  DEPLOYED: { status: 'SUCCEEDED', next: [] },
  FAILED: { status: 'FAILED', next: [] },
  CANCELED: { status: 'CANCELED', next: [] },
  SUPERSEDED: { status: 'CANCELED', next: [] },
  ROLLED_BACK: { status: 'FAILED', next: [] },
  ROLLBACK_FAILED: { status: 'FAILED', next: [] },
} as const satisfies Record<string, Phase>;

export type DeploymentPhase = keyof typeof phases;

/** What a deployment was asked to do. Version 1 has no step that scans. */
export type DeploymentInput =
  | { readonly kind: 'BUILD'; readonly applicationId: string; readonly ref: string }
  | {
      readonly kind: 'RESTORE';
      readonly applicationId: string;
      readonly releaseId: string;
      /** Default: that of the release. */
      readonly environment?: RestoredEnvironment;
    };

/** Which environment a rollback runs with: the one that the release had, or the one that holds now. */
export const restoredEnvironments = ['RELEASE', 'CURRENT'] as const;
export type RestoredEnvironment = (typeof restoredEnvironments)[number];

/** RFC 1123 label. */
export const ApplicationName = z
  .string()
  .regex(
    /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/,
    'must be 1 to 63 lower-case letters, digits and dashes, no dash at the ends',
  );

const Command = z
  .string()
  .trim()
  .min(1, 'must not be empty')
  .max(4000)
  .refine((command) => !command.includes('\0'), 'must not contain NUL');

/** All of an environment together, characters: an execve carries a few times as much. */
export const maxEnvironment = 262_144;
export const maxVariables = 200;

/** Objects and records of names lose it. */
const unnameable = '__proto__';

/** After POSIX. */
export const VariableName = z
  .string()
  .regex(/^[A-Za-z_][A-Za-z0-9_]{0,199}$/, 'is no name of an environment variable')
  .refine((name) => name !== unnameable, 'is a name that cannot be set here');
export const VariableValue = z
  .string('must be text')
  .max(32_768)
  .refine((value) => !value.includes('\0'), 'must not contain NUL')
  .refine((value) => value.isWellFormed(), 'must be well-formed Unicode');

/** Name to value. */
const environment = <V extends z.ZodType>(value: V) =>
  z
    // A record would be without it, and nobody told.
    .unknown()
    .refine((given) => !Object.hasOwn(Object(given), unnameable), {
      path: [unnameable],
      message: 'is a name that cannot be set here',
    })
    .pipe(z.record(VariableName, value))
    .refine((given) => Object.keys(given).length <= maxVariables, `must have at most ${maxVariables} variables`)
    .refine(
      (given) => Object.entries(given).flat().join('').length <= maxEnvironment,
      `must have at most ${maxEnvironment} characters in all`,
    );
export const Environment = environment(VariableValue);
/** The same; a name without a value goes. */
export const EnvironmentChanges = environment(VariableValue.nullable());

export const HealthPath = z
  .string()
  .max(1024)
  .regex(/^\/[\x21-\x7e]*$/, 'must be a path that begins with / and has no spaces');

export const NewApplication = z.object({
  workspaceId: z.string(),
  name: ApplicationName,
  repositoryUrl: z.string().max(2048),
  branch: z.string().max(255).default('main'),
  buildCommand: Command.nullish(),
  startCommand: Command.nullish(),
  healthCheckPath: HealthPath.default('/'),
  healthTimeoutS: z.int().min(1).max(600).default(30),
  environment: Environment.default({}),
  driver: z.enum(['PROCESS', 'DOCKER', 'EC2']).nullish(),
  memoryMb: z.int().min(16).nullish(),
  cpus: z.number().min(0.01).nullish(),
  /** Which ones there are is this server's setting. */
  port: z.int().nullish(),
});

/** What is absent stays; what may be null is cleared by it. */
export const ChangedApplication = z.object({
  id: z.string(),
  name: ApplicationName.nullish(),
  repositoryUrl: z.string().max(2048).nullish(),
  branch: z.string().max(255).nullish(),
  buildCommand: Command.nullish(),
  startCommand: Command.nullish(),
  healthCheckPath: HealthPath.nullish(),
  healthTimeoutS: z.int().min(1).max(600).nullish(),
  environment: EnvironmentChanges.nullish(),
  memoryMb: z.int().min(16).nullish(),
  cpus: z.number().min(0.01).nullish(),
  crashLoopRestarts: z.int().min(0).max(100).nullish(),
  crashLoopWindowS: z.int().min(10).max(86_400).nullish(),
  retainedReleases: z.int().min(1).max(100).nullish(),
});

/** The state machine of an application's deletion. */
export const applicationDeletionPhases = {
  PENDING: { status: 'QUEUED', next: ['REMOVING', 'CANCELED', 'FAILED'] },
  REMOVING: { status: 'RUNNING', next: ['REMOVED', 'CANCELED', 'FAILED'] },
  REMOVED: { status: 'SUCCEEDED', next: [] },
  FAILED: { status: 'FAILED', next: [] },
  CANCELED: { status: 'CANCELED', next: [] },
} as const satisfies Record<string, Phase>;
export type ApplicationDeletionPhase = keyof typeof applicationDeletionPhases;

/** A type, because an interface is no JSON. */
export type ApplicationDeletionInput = { readonly applicationId: string; readonly name: string };
export const AutoDeploy = z.object({ id: z.string(), autoDeploy: z.boolean() });

export const NewDeployment = z.object({
  applicationId: z.string(),
  ref: z.string().max(255).nullish(),
  idempotencyKey: z.string().min(1).max(200).nullish(),
});

export const NewRollback = z.object({
  applicationId: z.string(),
  releaseId: z.string().nullish(),
  environment: z.enum(restoredEnvironments).nullish(),
  idempotencyKey: z.string().min(1).max(200).nullish(),
});

export const NewScanPolicy = z.object({
  applicationId: z.string(),
  blockAtSeverity: z.enum(severities).nullish(),
  requireCompleteScan: z.boolean().nullish(),
});

const Fingerprint = z.string().regex(/^[0-9a-f]{64}$/, 'must be the fingerprint of a finding');

export const NewSuppression = z.object({
  applicationId: z.string(),
  fingerprint: Fingerprint,
  reason: z.string().trim().min(1, 'must not be empty').max(1000),
  expiresAt: z.date().nullish(),
});

export const EndedSuppression = z.object({ applicationId: z.string(), fingerprint: Fingerprint });

/** Length of the spans of metric points, seconds. */
export const resolutions = { LOOK: 0, MINUTE: 60, HOUR: 3600 } as const;
export type Resolution = keyof typeof resolutions;

const percent = (value: number): string => `${Math.round(value)} %`;

/** What alert rules look at: the usual rule of it, its bounds, and how it is told. */
export const conditions = {
  UNHEALTHY: {
    most: 100,
    title: (value: number, windowS: number) => `${percent(value)} of the health checks of ${windowS} s failed`,
  },
  RESTARTS: {
    most: 1000,
    title: (value: number, windowS: number) => `${value} restarts within ${windowS} s`,
  },
  MEMORY: {
    most: 100,
    title: (value: number, windowS: number) => `${percent(value)} of its memory in use for ${windowS} s`,
  },
  CPU: {
    most: 1_000_000,
    title: (value: number, windowS: number) => `${Math.round(value) / 1000} processors in use for ${windowS} s`,
  },
} as const satisfies Record<string, { most: number; title: (value: number, windowS: number) => string }>;
export type AlertConditionName = keyof typeof conditions;

export const previewApprovals = ['ALWAYS', 'FORKS'] as const;

export const NewPreviewPolicy = z.object({
  applicationId: z.string(),
  enabled: z.boolean(),
  approval: z.enum(previewApprovals).nullish(),
  maxPreviews: z.int().min(1).max(100).nullish(),
  maxAgeH: z.int().min(1).max(8760).nullish(),
  forksVariables: z.boolean().nullish(),
  environment: EnvironmentChanges.nullish(),
});

export const SeenPreview = z.object({
  id: z.string(),
  commitSha: z.string().regex(/^(?:[0-9a-f]{40}|[0-9a-f]{64})$/, 'must be a full commit id'),
});

/** A pull request as an event of GitHub shows it. */
export interface Pull {
  /** GitHub's id of the repository that it is of. */
  readonly githubId: bigint;
  readonly number: number;
  /** For a person, one line. */
  readonly title: string;
  readonly isOpen: boolean;
  /** Its newest commit, and the one before where the event tells it. */
  readonly headSha: string;
  readonly headBefore: string | null;
  /** For a person, one line. */
  readonly headRef: string;
  /** The branch that it would change. */
  readonly baseRef: string;
  /** Whether it comes from elsewhere than the repository itself, also from what is gone. */
  readonly isFork: boolean;
  /** GitHub's time of it, in whole seconds. */
  readonly updatedAt: Date;
}

/**
 * Whether an event is from before what is known. Within a second of GitHub the commit before decides, and nothing opens
 * what was closed.
 */
export function isFromBefore(
  pull: Pull,
  known: {
    readonly pullUpdatedAt: Date;
    readonly state: string;
    readonly headSha: string;
    readonly headBefore: string | null;
  },
): boolean {
  const later = pull.updatedAt.getTime() - known.pullUpdatedAt.getTime();
  if (later !== 0) return later < 0;
  if (!pull.isOpen) return false;
  if (known.state === 'CLOSED') return true;
  return pull.headSha !== known.headSha && (pull.headBefore === null || pull.headSha === known.headBefore);
}

export const NewAlertRule = z.object({
  applicationId: z.uuid(),
  condition: z.enum(Object.keys(conditions) as [AlertConditionName, ...AlertConditionName[]]),
  threshold: z.number().positive(),
  windowS: z.int().min(30).max(3600),
});

/**
 * The one form in which addresses of repositories are compared: origin and path, in lower case, without `.git`. An
 * SSH address is that of the same host by https. Null: it is no such address.
 */
export function urlKey(address: string): string | null {
  const url = URL.parse(address);
  if (!url || !/^(?:https?|ssh):$/.test(url.protocol)) return null;
  const origin = url.protocol === 'ssh:' ? `https://${url.hostname}` : url.origin;
  const path = url.pathname.replace(/\/+$/, '').replace(/\.git$/i, '');
  return path === '' ? null : `${origin}${path}`.toLowerCase();
}
