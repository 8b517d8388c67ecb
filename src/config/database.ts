import { connectionUrl, optional, setting, whole } from './kit.ts';

export const database = {
  DATABASE_URL: optional({
    group: 'Database',
    description:
      'PostgreSQL server; may go through a pooler in transaction mode. Unset: a PostgreSQL server is started in the state folder.',
    secret: true,
    example: 'postgresql://switchyard:password@db.example.com:5432/switchyard',
    schema: connectionUrl('postgresql:', 'postgres:'),
  }),
  DATABASE_DIRECT_URL: optional({
    group: 'Database',
    description: 'The same database without a pooler, for LISTEN and migrations.',
    default: { words: 'DATABASE_URL', of: ({ env }) => env.get('DATABASE_URL') },
    secret: true,
    example: 'postgresql://switchyard:password@db.example.com:5432/switchyard',
    schema: connectionUrl('postgresql:', 'postgres:'),
  }),
  DATABASE_POOL_MAX: setting({
    group: 'Database',
    description: 'Most connections of one process to the database, LISTEN and jobs aside.',
    unit: 'connections',
    default: '10',
    example: '20',
    schema: whole(2, 1000),
  }),
  SWITCHYARD_STATEMENT_TIMEOUT_S: setting({
    group: 'Database',
    description:
      'Most time of one statement in a process that serves the API. A request whose statement takes longer is told `TIMEOUT`. Migrations, background jobs and what else tidies up may take longer.',
    unit: 's',
    default: '30',
    example: '10',
    schema: whole(1, 3600),
  }),
  REDIS_URL: optional({
    group: 'Database',
    description:
      'Redis that carries wake-ups between processes, and counts for rate limits. Unset: PostgreSQL carries them, and SWITCHYARD_RATES says who counts. Nothing that must last goes there.',
    secret: true,
    example: 'rediss://:password@redis.example.com:6380/0',
    schema: connectionUrl('redis:', 'rediss:'),
  }),
} as const;
