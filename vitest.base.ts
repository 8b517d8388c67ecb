/** Tests that need a Docker engine: they take a minute, and belong to the proof. */
export const ofDocker = ['test/integrations/drivers/docker.test.ts', 'test/domains/deployments/docker.test.ts'];

/** What the two test configurations share. */
export const resolve = {
  // graphql 16 has a CommonJS and an ES module build and refuses to work with itself across the two: one for all.
  alias: [{ find: /^graphql$/, replacement: 'graphql/index.js' }],
};
