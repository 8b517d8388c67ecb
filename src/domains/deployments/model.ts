import { z } from 'zod';
import type { Phase } from '#kernel/runs/kinds.ts';

/** A deployment's state machine. Scanning has its place between PENDING and BUILDING and comes later. */
export const phases = {
  PENDING: { status: 'QUEUED', next: ['BUILDING', 'DEPLOYING', 'SUPERSEDED', 'CANCELED', 'FAILED'] },
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

/** What a deployment was asked to do, version 1. */
export type DeploymentInput =
  | { readonly kind: 'BUILD'; readonly applicationId: string; readonly ref: string }
  | { readonly kind: 'RESTORE'; readonly applicationId: string; readonly releaseId: string };

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
const maxEnvironment = 262_144;

/** Names after POSIX, values as text. */
export const Environment = z
  .record(
    z.string().regex(/^[A-Za-z_][A-Za-z0-9_]{0,199}$/, 'is no name of an environment variable'),
    z.string().max(32_768),
  )
  .refine((environment) => Object.keys(environment).length <= 200, 'must have at most 200 variables')
  .refine((environment) => Object.values(environment).every((value) => !value.includes('\0')), 'must not contain NUL')
  .refine(
    (environment) => Object.entries(environment).flat().join('').length <= maxEnvironment,
    `must have at most ${maxEnvironment} characters in all`,
  );

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
  driver: z.enum(['PROCESS', 'DOCKER']).nullish(),
  memoryMb: z.int().min(16).nullish(),
  cpus: z.number().min(0.01).nullish(),
  /** Which ones there are is this server's setting. */
  port: z.int().nullish(),
});

export const NewDeployment = z.object({
  applicationId: z.string(),
  ref: z.string().max(255).nullish(),
  idempotencyKey: z.string().min(1).max(200).nullish(),
});

export const NewRollback = z.object({
  applicationId: z.string(),
  releaseId: z.string().nullish(),
  idempotencyKey: z.string().min(1).max(200).nullish(),
});

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

export const NewAlertRule = z.object({
  applicationId: z.uuid(),
  condition: z.enum(Object.keys(conditions) as [AlertConditionName, ...AlertConditionName[]]),
  threshold: z.number().positive(),
  windowS: z.int().min(30).max(3600),
});
