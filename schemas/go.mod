module github.com/lanyard-nhi/lanyard/schemas

go 1.26.8
