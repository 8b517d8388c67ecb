import { definePolicy, inWorkspace, withParent } from '#kernel/auth/policy.ts';

export const can = definePolicy('repositories', {
  verbs: {
    connectRepository: 'ADMIN',
    rotateWebhookSecret: 'ADMIN',
    disconnectRepository: 'ADMIN',
    redeliverWebhook: 'MEMBER',
  },
  rows: {
    ConnectedRepository: inWorkspace('VIEWER'),
    // What matched no workspace is in the server's own, which operators have.
    WebhookDelivery: inWorkspace('VIEWER'),
    // Reached through their deployment.
    CommitStatus: withParent,
    StatusContext: withParent,
    PushDeployment: withParent,
  },
}).verbs;
