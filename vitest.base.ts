/** The conformance suite on a Docker engine takes a minute, here and by way of SSM, and belongs to the proof. */
export const ofDocker = ['test/integrations/drivers/docker.test.ts', 'test/integrations/drivers/ec2.test.ts'];

/** What the two test configurations share. */
export const resolve = {
  // graphql 16 has a CommonJS and an ES module build and refuses to work with itself across the two: one for all.
  alias: [{ find: /^graphql$/, replacement: 'graphql/index.js' }],
};

/**
 * Files that mock modules, build a schema of their own, or read what all of a process has declared: each has a process to
 * itself. The others share theirs, so that the server's modules are loaded once and not seventy times.
 */
export const alone = [
  'test/domains/identity/accounts.test.ts',
  'test/integrations/redis/rates.test.ts',
  'test/kernel/auth/tenancy.test.ts',
  'test/kernel/crypto.test.ts',
  'test/kernel/graphql/{access,schema}.test.ts',
  'test/kernel/rates/throttles.test.ts',
  'test/kernel/sealing/sealing.test.ts',
  'test/kernel/telemetry/trace.test.ts',
];

/**
 * Files that declare kinds of runs, jobs and fields of the schema, which would be in the way of the rest: they share
 * processes among themselves. Each imports test/support/probe.ts first, since the schema is built once.
 */
export const declaring = [
  'test/domains/identity/{external,github,sso}.test.ts',
  'test/kernel/graphql/rejections.test.ts',
  'test/kernel/jobs/jobs.test.ts',
  'test/kernel/live/{rights,streams}.test.ts',
  'test/kernel/runs/*.test.ts',
];
