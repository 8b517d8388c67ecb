import { anyOf, definePolicy, inWorkspace, self, some } from './policy.ts';

/** Who may see people, workspaces and keys. The verbs are those of the domain `identity`. */
export const authPolicy = definePolicy('auth', {
  verbs: {},
  rows: {
    Workspace: inWorkspace('VIEWER', 'id'),
    Membership: inWorkspace('VIEWER'),
    // Oneself, and everybody with whom one shares a workspace.
    User: anyOf(self('id'), some('memberships', inWorkspace('VIEWER'))),
    ApiKey: anyOf(inWorkspace('ADMIN'), self('createdById')),
  },
});
