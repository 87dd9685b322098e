package cloudtrail

import (
	"bytes"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/neutral"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/records"
)

// Shape is how records arrive: files {"Records":[...]}, EventBridge events, CloudWatch
// Logs subscriptions, and SNS and SQS messages around any of them.
var Shape = records.Shape{Lists: []string{"Records"}, Unwrap: unwrap}

// marks are what an object that may be a wrapper holds; others need no closer look.
var marks = [][]byte{[]byte(`"logEvents"`), []byte(`"detail-type"`), []byte(`"Message"`), []byte(`"aws:sqs"`), []byte(`"Sns"`)}

func unwrap(v jsontext.Value) ([]jsontext.Value, error) {
	marked := false
	for _, m := range marks {
		marked = marked || bytes.Contains(v, m)
	}
	if !marked || records.Text(v, "eventID") != "" {
		return nil, nil
	}
	if list, err := records.CloudWatch(v); list != nil || err != nil {
		return list, err
	}
	if detail, ok := records.Member(v, "detail"); ok && records.Text(v, "detail-type") == "AWS API Call via CloudTrail" {
		return []jsontext.Value{detail}, nil
	}
	if sns, ok := records.Member(v, "Sns"); ok && sns.Kind() == '{' {
		v = sns
	}
	inner := ""
	switch {
	case records.Text(v, "Type") == "Notification", records.Text(v, "TopicArn") != "":
		inner = records.Text(v, "Message")
	case records.Text(v, "eventSource") == "aws:sqs":
		inner = records.Text(v, "body")
	}
	if inner == "" {
		return nil, nil
	}
	return []jsontext.Value{jsontext.Value(inner)}, nil
}

// notification is an error when a record is no record but tells that a file of records
// was stored: an S3 event, an EventBridge event of S3, or CloudTrail's own notification.
func notification(raw []byte) error {
	d, err := neutral.Parse(raw)
	if err != nil {
		return err
	}
	bucket, key := d.Text("s3", "bucket", "name"), d.Text("s3", "object", "key")
	if d.Text("s3Bucket") != "" {
		bucket, key = d.Text("s3Bucket"), d.Text("s3ObjectKey", "0")
	}
	if d.Text("source") == "aws.s3" {
		bucket, key = d.Text("detail", "bucket", "name"), d.Text("detail", "object", "key")
	}
	if bucket == "" {
		return nil
	}
	return fmt.Errorf("%w: it names %.200q in bucket %.64q, and Lanyard fetches nothing from buckets: "+
		"have the notification's receiver read the file and post its content here", neutral.ErrNotStored, key, bucket)
}
