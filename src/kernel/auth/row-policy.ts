import { allOf, anyOf, definePolicy, inWorkspace, self, some } from './policy.ts';

/** Who may see people, workspaces and keys. The verbs are those of the domain `identity`. */
export const authPolicy = definePolicy('auth', {
  verbs: {},
  rows: {
    Workspace: inWorkspace('VIEWER', 'id'),
    Membership: inWorkspace('VIEWER'),
    // Oneself, and everybody with whom one shares a workspace.
    User: anyOf(self('id'), some('memberships', inWorkspace('VIEWER'))),
    // With the address of somebody who may be no member.
    Invitation: inWorkspace('ADMIN'),
    // Its maker, but only in a workspace that the credential reaches: a key of one workspace tells nothing of another.
    ApiKey: anyOf(inWorkspace('ADMIN'), allOf(self('createdById'), inWorkspace('VIEWER'))),
  },
});
