package cloudtrail

import (
	"cmp"
	"strings"

	"github.com/lanyard-nhi/lanyard/events"
)

// resourceKeys lists the request parameters that name what an action is about, the
// most telling first. It is a read-only table.
var resourceKeys = []string{
	"instanceId", "secretId", "trailName", "groupId", "imageId", "snapshotId", "modelId", "userName", "roleName",
	"groupName", "functionName", "bucketName", "tableName", "keyId", "dBInstanceIdentifier", "dBSnapshotIdentifier",
	"dBClusterIdentifier", "clusterName", "logGroupName", "queueUrl", "topicArn", "repositoryName", "stackName",
	"detectorId", "resolverQueryLogConfigId", "stateMachineArn", "projectName", "policyArn", "resourceArn", "name", "target",
}

// resource is the ARN of the first resource, else "key=value" of the request
// parameter that names one.
func (r record) resource() string {
	for _, x := range r.Resources {
		if x.ARN != "" {
			return x.ARN
		}
	}
	for _, key := range resourceKeys {
		if v := look(r.RequestParameters, key); v != "" {
			return key + "=" + v
		}
	}
	return ""
}

// resourceAccount is the AWS account that the resource belongs to, when the record
// says so or was delivered to another account than the caller's.
func (r record) resourceAccount() string {
	for _, x := range r.Resources {
		if x.AccountID != "" {
			return x.AccountID
		}
	}
	if r.RecipientAccountID != r.account() {
		return r.RecipientAccountID
	}
	return ""
}

// count is how many resources of one kind a call touched, 0 when it is one or not said.
func (r record) count() int64 {
	var n int64
	for _, x := range r.Resources {
		if x.Type == r.Resources[0].Type {
			n++
		}
	}
	if n < 2 {
		return 0
	}
	return n
}

// target is the identity that an action is about: the role that is assumed, the user
// or role that an IAM action changes, or the account that a store is shared with.
func (r record) target(action string) string {
	service, _, _ := strings.Cut(action, ":")
	switch service {
	case "sts":
		return look(r.RequestParameters, "roleArn")
	case "iam":
		if made := cmp.Or(look(r.ResponseElements, "user", "arn"), look(r.ResponseElements, "role", "arn")); made != "" {
			return made
		}
		for _, k := range []struct{ key, kind string }{{"userName", "user"}, {"roleName", "role"}, {"groupName", "group"}} {
			if name := look(r.RequestParameters, k.key); name != "" {
				return "arn:aws:iam::" + cmp.Or(r.RecipientAccountID, r.account()) + ":" + k.kind + "/" + name
			}
		}
		if action == "iam:CreateAccessKey" || action == "iam:ChangePassword" {
			return r.who() // without a user name these are about the caller
		}
		return ""
	}
	return cmp.Or(
		look(r.RequestParameters, "launchPermission", "add", "items", "0", "userId"),
		look(r.RequestParameters, "createVolumePermission", "add", "items", "0", "userId"),
		look(r.RequestParameters, "valuesToAdd", "0"),
	)
}

// minted is the credential or identity that a successful call made.
func (r record) minted() string {
	return cmp.Or(
		look(r.ResponseElements, "credentials", "accessKeyId"),
		look(r.ResponseElements, "accessKey", "accessKeyId"),
		look(r.ResponseElements, "serviceSpecificCredential", "serviceSpecificCredentialId"),
		look(r.ResponseElements, "user", "arn"),
		look(r.ResponseElements, "role", "arn"),
	)
}

// Actions by class, where the name's first word does not tell. Read-only tables.
var (
	secretActions = map[string]bool{
		"secretsmanager:GetSecretValue": true, "secretsmanager:BatchGetSecretValue": true, "ssm:GetParameter": true,
		"ssm:GetParameters": true, "ssm:GetParametersByPath": true, "ssm:GetParameterHistory": true,
		"ec2:GetPasswordData": true, "kms:Decrypt": true, "redshift:GetClusterCredentials": true,
		"lightsail:GetInstanceAccessDetails": true, "ecr:GetAuthorizationToken": true,
	}
	execActions = map[string]bool{
		"ssm:SendCommand": true, "ssm:StartSession": true, "ssm:ResumeSession": true, "ssm:StartAutomationExecution": true,
		"ec2-instance-connect:SendSSHPublicKey": true, "ec2-instance-connect:SendSerialConsoleSSHPublicKey": true,
		"ec2:RunInstances": true, "lambda:Invoke": true, "ecs:RunTask": true, "ecs:ExecuteCommand": true,
		"codebuild:StartBuild": true, "states:StartExecution": true, "glue:StartJobRun": true, "batch:SubmitJob": true,
		"bedrock:InvokeModel": true, "bedrock:InvokeModelWithResponseStream": true, "bedrock:InvokeAgent": true,
	}
	logActions = map[string]bool{
		"ec2:DeleteFlowLogs": true, "route53resolver:DeleteResolverQueryLogConfig": true, "wafv2:DeleteLoggingConfiguration": true,
		"s3:PutBucketLogging": true, "bedrock:DeleteModelInvocationLoggingConfiguration": true, "elasticloadbalancing:ModifyLoadBalancerAttributes": true,
	}
	logServices  = map[string]bool{"cloudtrail": true, "logs": true, "config": true, "guardduty": true, "securityhub": true, "macie2": true}
	iamServices  = map[string]bool{"iam": true, "organizations": true, "sso": true, "sso-directory": true, "identitystore": true, "rolesanywhere": true, "account": true}
	readPrefixes = []string{"Get", "List", "Describe", "Head", "BatchGet", "Lookup", "Search", "Query", "Scan", "Select", "Test", "Simulate", "View", "Check"}
)

// class groups an action by what it can do.
func class(action string, readOnly bool) events.ActionClass {
	service, name, _ := strings.Cut(action, ":")
	switch {
	case secretActions[action]:
		return events.ClassSecret
	case execActions[action]:
		return events.ClassExec
	case exchanges[action]:
		return events.ClassIAM
	case readOnly:
		return events.ClassRead
	case logActions[action], logServices[service] && !reads(name):
		return events.ClassLog
	case iamServices[service] && !reads(name):
		return events.ClassIAM
	case reads(name):
		return events.ClassRead
	}
	return events.ClassWrite
}

func reads(name string) bool {
	for _, p := range readPrefixes {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}
