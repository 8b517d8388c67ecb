/** The conformance suite on a Docker engine takes a minute, and belongs to the proof. */
export const ofDocker = ['test/integrations/drivers/docker.test.ts'];

/** What the two test configurations share. */
export const resolve = {
  // graphql 16 has a CommonJS and an ES module build and refuses to work with itself across the two: one for all.
  alias: [{ find: /^graphql$/, replacement: 'graphql/index.js' }],
};
