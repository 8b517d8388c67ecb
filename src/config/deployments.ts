import { z } from 'zod';
import { dockerSocket, flag, setting, whole } from './kit.ts';

const portRange = z.string().transform((text, context): PortRange => {
  const [, from, to] = /^(\d{1,5})-(\d{1,5})$/.exec(text)?.map(Number) ?? [];
  if (from !== undefined && to !== undefined && from >= 1024 && to <= 65_535 && from <= to) return { from, to };
  context.addIssue('must be two ports from 1024 to 65535, such as 20000-29999');
  return z.NEVER;
});

/** Both ends belong to it. */
export interface PortRange {
  readonly from: number;
  readonly to: number;
}

/** Applications on hosts: what they may use, quotas, drivers. */
export const deployments = {
  SWITCHYARD_PROCESS_DRIVER: setting({
    group: 'Deployments',
    description:
      'Run deployed applications as processes of this host. They are other users’ code and share its kernel and network, so production has to say it.',
    default: {
      words: 'true outside production; in production it must be set',
      of: ({ mode }) => (mode === 'production' ? undefined : 'true'),
    },
    example: 'false',
    schema: flag,
  }),
  SWITCHYARD_APP_USER_BASE: setting({
    group: 'Deployments',
    description: 'First of the user ids under which deployed applications run when the worker is root.',
    unit: 'user id',
    default: '61184',
    example: '70000',
    schema: whole(1000, 2_000_000_000),
  }),
  SWITCHYARD_APP_MEMORY_MB: setting({
    group: 'Deployments',
    description: 'Memory limit of one deployed application.',
    unit: 'MiB',
    default: '512',
    example: '1024',
    schema: whole(16, 1_048_576),
  }),
  SWITCHYARD_METRICS_INTERVAL_S: setting({
    group: 'Deployments',
    description:
      'How often each instance that serves is asked what it uses and whether it is healthy; 0: never. Each look is kept for a day, minutes for 14 days, hours for 400.',
    unit: 's',
    default: '15',
    example: '60',
    schema: whole(0, 3600),
  }),
  SWITCHYARD_ADDRESS_PORTS: setting({
    group: 'Deployments',
    description: 'Ports from which each application’s stable address is taken, both ends included.',
    unit: 'ports',
    default: '20000-29999',
    example: '21000-21999',
    schema: portRange,
  }),
  SWITCHYARD_INSTANCE_PORTS: setting({
    group: 'Deployments',
    description:
      'Ports on which instances of applications listen, behind the stable addresses; must not overlap with them.',
    unit: 'ports',
    default: '11000-19999',
    example: '12000-12999',
    schema: portRange,
  }),
  SWITCHYARD_APP_MEMORY_MAX_MB: setting({
    group: 'Deployments',
    description: 'The most memory that an application may be given.',
    unit: 'MiB',
    default: '4096',
    example: '8192',
    schema: whole(16, 1_048_576),
  }),
  SWITCHYARD_APP_MILLI_CPUS: setting({
    group: 'Deployments',
    description: 'Processor limit of one deployed application, Docker driver.',
    unit: '1/1000 processor',
    default: '1000',
    example: '500',
    schema: whole(10, 1_000_000),
  }),
  SWITCHYARD_MAX_APPLICATIONS: setting({
    group: 'Deployments',
    description: 'Most applications of a workspace for which operators have said nothing else.',
    unit: 'applications',
    default: '100',
    example: '20',
    schema: whole(0, 100_000),
  }),
  SWITCHYARD_MAX_CONCURRENT_DEPLOYMENTS: setting({
    group: 'Deployments',
    description:
      'Most deployments of a workspace that are executed at once, the same way; more wait. Of one application it is always one.',
    unit: 'deployments',
    default: '20',
    example: '5',
    schema: whole(1, 10_000),
  }),
  SWITCHYARD_RETAINED_RELEASES: setting({
    group: 'Deployments',
    description:
      'Releases of an application that are kept for a rollback, the one that serves not counted, the same way; an application may have fewer.',
    unit: 'releases',
    default: '5',
    example: '3',
    schema: whole(1, 100),
  }),
  SWITCHYARD_MAX_DISK_MB: setting({
    group: 'Deployments',
    description:
      'Most disk that the applications of a workspace may have together, the same way: releases, images, logs, and what instances write. Beyond it nothing more is built; what runs is not held back.',
    unit: 'MiB',
    default: '51200',
    example: '10240',
    schema: whole(0, 1_000_000_000),
  }),
  SWITCHYARD_MIN_FREE_DISK_MB: setting({
    group: 'Deployments',
    description:
      'Nothing is built on a host while less than this is free on the disk of its applications, or on that of its Docker engine.',
    unit: 'MiB',
    default: '256',
    example: '5120',
    schema: whole(0, 1_000_000_000),
  }),
  SWITCHYARD_DISK_INTERVAL_S: setting({
    group: 'Deployments',
    description: 'How often the disk that applications have is measured; 0: never, and then it has no limit.',
    unit: 's',
    default: '300',
    example: '3600',
    schema: whole(0, 86_400),
  }),
  SWITCHYARD_APP_MILLI_CPUS_MAX: setting({
    group: 'Deployments',
    description: 'The most processors that an application may be given.',
    unit: '1/1000 processor',
    default: '4000',
    example: '2000',
    schema: whole(10, 1_000_000),
  }),
  SWITCHYARD_DOCKER: setting({
    group: 'Deployments',
    description:
      'Run deployed applications as containers of this host’s Docker engine: auto where it answers, on (a worker without it does not start), off.',
    default: 'auto',
    example: 'on',
    schema: z.enum(['auto', 'on', 'off'], 'must be auto, on or off'),
  }),
  DOCKER_HOST: setting({
    group: 'Deployments',
    description: 'Address of the Docker engine, a socket of this machine.',
    default: 'unix:///var/run/docker.sock',
    example: 'unix:///run/user/1000/docker.sock',
    schema: dockerSocket,
  }),
  SWITCHYARD_DOCKER_NODE_IMAGE: setting({
    group: 'Deployments',
    description: 'Image that Node projects without a Dockerfile are built on.',
    default: 'node:24-slim',
    example: 'registry.example.com/node:24',
    schema: z.string().regex(/^[a-z0-9][a-zA-Z0-9._:/@-]{0,255}$/, 'must be the name of an image'),
  }),
  SWITCHYARD_DOCKER_BUILD_MEMORY_MB: setting({
    group: 'Deployments',
    description: 'Memory limit of each step of an image’s build.',
    unit: 'MiB',
    default: '2048',
    example: '4096',
    schema: whole(16, 1_048_576),
  }),
  SWITCHYARD_DOCKER_BUILD_MILLI_CPUS: setting({
    group: 'Deployments',
    description: 'Processor limit of each step of an image’s build.',
    unit: '1/1000 processor',
    default: '2000',
    example: '4000',
    schema: whole(10, 1_000_000),
  }),
  SWITCHYARD_DOCKER_PATIENCE_S: setting({
    group: 'Deployments',
    description: 'How long a deployment waits for an engine that is away, for instance while it is restarted.',
    unit: 's',
    default: '60',
    example: '300',
    schema: whole(1, 3600),
  }),
} as const;
